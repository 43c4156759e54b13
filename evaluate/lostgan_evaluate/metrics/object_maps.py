"""Object maps against true masks: how much of each object's shape the generator finds by itself."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from PIL import Image

from lostgan_evaluate.metrics import Metric, needs_layouts
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Sample, Subject, Tools
from lostgan_serve.contract import Array
from lostgan_serve.errors import EvaluationError
from lostgan_serve.files import reading
from lostgan_train.data import Example
from lostgan_train.data.masks import (
    WHOLE,
    TrueMask,
    TrueObject,
    all_objects,
    cut,
    objects_of,
    only_boxes,
    read_masks,
    without_masks,
)
from lostgan_train.diagnostics import owners_by_box


def object_map_of(sample: Sample) -> Array:
    """Read the object map of a sample back from its picture, which shows each pixel as a square of several: [R, R]
    uint8, 255 for no object. Raises InputError."""
    assert sample.objects is not None
    with reading(sample.objects), Image.open(sample.objects) as picture, Image.open(sample.file) as image:
        factor = picture.height // image.height
        pixels = np.array(picture.crop((0, 0, picture.height, picture.height)))
    return pixels[::factor, ::factor]


def true_masks(subject: Subject) -> dict[TrueObject, TrueMask]:
    """True masks of the objects of the real images. Raises EvaluationError where the annotations have none."""
    assert subject.source is not None
    assert subject.data is not None
    found = read_masks(subject.data, subject.protocol.split, subject.source.vocabulary, all_objects(subject.real))
    if not found:
        raise EvaluationError(only_boxes(subject.data))
    return found


def needs_object_maps(subject: Subject, tools: Tools) -> str | None:
    """Why a metric of object maps cannot be measured."""
    if reason := needs_layouts(subject, tools):
        return reason
    there = all(sample.objects is not None for sample in subject.samples)
    return None if there else "images from elsewhere have no object maps; give a MODEL"


def _why_not(subject: Subject, tools: Tools) -> str | None:
    if reason := needs_object_maps(subject, tools):
        return reason
    assert subject.data is not None
    return without_masks(subject.data)


def _ious_of(owners: Array, example: Example, masks: dict[TrueObject, TrueMask]) -> Array:
    """IoU with the true masks of the image's objects, NaN where there is none: [N, 2], of the object map and of the
    boxes."""
    side_px, items = len(owners), objects_of(example)
    truth = np.zeros((len(items), side_px, side_px), bool)
    for region, item in zip(truth, items, strict=True):
        if item in masks:
            region[:] = cut(masks[item].pixels(), WHOLE, side_px)
    by_box = owners_by_box(torch.tensor(example.boxes), side_px)
    with np.errstate(invalid="ignore"):  # a region and a mask that are both empty
        pairs = np.stack([_object_ious(regions, truth) for regions in (owners, by_box)], 1)
    pairs[~truth.any((1, 2))] = np.nan
    return pairs


def _object_ious(owners: Array, masks: Array) -> Array:
    """IoU of the region that each object owns, [H, W] its index, with its mask, [N, H, W] bool: [N]."""
    regions = owners[None] == np.arange(len(masks))[:, None, None]
    both, either = (regions & masks).sum((1, 2)), (regions | masks).sum((1, 2))
    shares: Array = both / either
    return shares


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.source is not None
    masks = true_masks(subject)
    samples = subject.samples
    by_label: dict[str, list[Array]] = defaultdict(list)
    with tools.progress.count("comparing object maps", len(samples)) as advance:
        for done, sample in enumerate(samples, 1):
            example = subject.example(sample)
            for label, pair in zip(example.labels, _ious_of(object_map_of(sample), example, masks), strict=True):
                by_label[subject.source.vocabulary.labels[label]].append(pair)
            advance(done, "")
    known = {name: kept for name in sorted(by_label) if len(kept := _known(by_label[name]))}
    iou, box_iou = np.concatenate(list(known.values())).mean(0)
    counted = sum(map(len, known.values()))
    facts = {
        "box_iou": float(box_iou), "objects": counted, "images": len(samples),
        "objects_without_mask": sum(map(len, by_label.values())) - counted,
    }  # fmt: skip
    labels = {name: float(pairs[:, 0].mean()) for name, pairs in known.items()}
    return Measured((Score("object_map_iou", float(iou), "higher", by_label=labels, facts=facts),))


def _known(pairs: list[Array]) -> Array:
    values: Array = np.array(pairs)
    known: Array = values[~np.isnan(values).any(1)]
    return known


METRIC = Metric("object-maps", "IoU of each object's region in the object map with its true mask", _why_not, _measure)
