"""Crops of objects, as classifiers see them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lostgan_evaluate.images import Reading, Region, read
from lostgan_evaluate.subject import Sample, Subject
from lostgan_serve.progress import Progress
from lostgan_serve.runners.cores import usable_cores
from lostgan_train.classifier import CROP_PX, Crops
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
    crops = np.empty((len(objects), CROP_PX, CROP_PX, 3), np.uint8)
    with ThreadPoolExecutor(usable_cores()) as pool, progress.count("cutting crops", len(objects)) as advance:
        for start in range(0, len(objects), _CROPS_AT_ONCE):
            part = objects[start : start + _CROPS_AT_ONCE]
            crops[start : start + len(part)] = list(pool.map(lambda each: read(each[0], reading, CROP_PX), part))
            advance(start + len(part), "")
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in objects])


def _objects(example: Example, file: Region) -> list[Object]:
    """The objects of a layout in an image."""
    regions = (Region(file.file, file.size_px, box) for box in example.boxes)
    return list(zip(regions, example.labels, strict=True))


def real_objects(examples: Sequence[Example]) -> list[Object]:
    """The objects of real images."""
    return [each for example in examples for each in _objects(example, Region(example.image, example.size_px))]
