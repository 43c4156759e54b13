"""Crops of objects, as classifiers see them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lostgan_evaluate.images import Reading, Region, read_all
from lostgan_evaluate.subject import Sample, Subject, Tools
from lostgan_serve.progress import Progress
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train import distributed
from lostgan_train.classifier import CROP_PX, Crops, Lesson, Recipe, train_classifier
from lostgan_train.data import Example

Object = tuple[Region, int]
"""An object in an image, and the id of its label."""

_CROPS_AT_ONCE = 512


def generated_objects(subject: Subject, samples: Sequence[Sample]) -> list[Object]:
    """The objects of generated images whose layouts are known."""
    return [
        each
        for sample in samples
        if sample.place is not None
        for each in _objects(subject.example(sample), Region(sample.file))
    ]


def read_crops(objects: Sequence[Object], reading: Reading, progress: Progress) -> Crops:
    """Crops of objects and the ids of their labels. Raises DataError for an image that does not decode."""
    crops = torch.empty((len(objects), 3, CROP_PX, CROP_PX), dtype=torch.uint8)
    with progress.count("cutting crops", len(objects)) as advance:
        for start in range(0, len(objects), _CROPS_AT_ONCE):
            part = [region for region, _ in objects[start : start + _CROPS_AT_ONCE]]
            crops[start : start + len(part)] = read_all(part, reading, CROP_PX)
            advance(start + len(part), "")
    return crops, torch.tensor([label for _, label in objects])


def taught(
    lesson: Lesson,
    vocabulary: Vocabulary,
    folder: str,
    tools: Tools,
    steps: int | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """A classifier that learns from crops, see `train_classifier`. folder: in that of the networks.

    Raises KeyboardInterrupt where SIGTERM or SIGINT stops it; its state is saved.
    """
    network = train_classifier(
        lesson, vocabulary, tools.networks / folder, distributed.start(), tools.progress, steps, tools.seed, recipe
    )
    if network is None:
        raise KeyboardInterrupt
    return network


def _objects(example: Example, file: Region) -> list[Object]:
    """The objects of a layout in an image."""
    regions = (Region(file.file, file.size_px, box) for box in example.boxes)
    return list(zip(regions, example.labels, strict=True))


def real_objects(examples: Sequence[Example]) -> list[Object]:
    """The objects of real images."""
    return [each for example in examples for each in _objects(example, Region(example.image, example.size_px))]
