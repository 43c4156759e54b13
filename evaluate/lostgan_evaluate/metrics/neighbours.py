"""Nearest training images of generated ones, by features and by layout (section 3.1.3, figures 6, 7 and 10).

A model that keeps training images by heart would be far nearer to them than other real images are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lostgan_evaluate.images import Region, read
from lostgan_evaluate.metrics import Metric, needs_training, score_name
from lostgan_evaluate.metrics.generating import first_layouts
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools, whole
from lostgan_serve.contract import Array
from lostgan_serve.figures import Tile
from lostgan_serve.render import layout_picture
from lostgan_train.data import Example
from lostgan_train.diagnostics import owners_by_box

SHEET = "nearest-neighbours.png"

MAP_SIDE_PX = 32
"""Side of the label maps that layouts are compared by."""

MOST_NUMBERS = 2**28
"""Features of training images that are searched, as single numbers: 1 GiB. Of more images, as many as fit are drawn by
the seed."""

_PREFERRED, _AT_HAND = "alexnet", "efficientnet-lite0"
_COLUMNS, _TILE_PX, _AT_ONCE = 8, 160, 1024


def nearest_cosines(features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine similarity of each row, [N, D], to the rows of another matrix, [M, D], and whose it is: [N]
    each."""
    normed = F.normalize(others)
    found = [(F.normalize(part) @ normed.T).max(1) for part in features.split(_AT_ONCE)]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def label_map(example: Example) -> Array:
    """The label of each pixel of a layout, smaller boxes over larger ones, 0 where there is none: [32, 32] int16."""
    owners = owners_by_box(torch.tensor(example.boxes), MAP_SIDE_PX)
    labels: Array = np.array([*example.labels, 0], np.int16)[owners]  # no owner is -1, the last
    return labels


def global_scene_consistency(query: Array, targets: Array, labels: int) -> Array:
    """How alike layouts are, from 0 to 1: the mean of the likeness of their histograms and of their overlap.

    query: [S, S], targets: [N, S, S], ids of labels below `labels`. Returns [N]. The histograms h and g are the shares
    of the picture that each label has, and their likeness is 1 - sum |h - g| / 2. The overlap is the share of pixels
    with the same label, among those where either layout has one. The paper names both parts and no formula.
    """
    of_query, of_targets = _histogram(query, labels), np.stack([_histogram(target, labels) for target in targets])
    likeness = 1 - np.abs(of_targets - of_query).sum(1) / 2
    used = (targets != 0) | (query != 0)
    overlap = ((targets == query) & used).sum((1, 2)) / used.sum((1, 2)).clip(1)
    consistency: Array = (likeness + overlap) / 2
    return consistency


def _histogram(label_map: Array, labels: int) -> Array:
    return np.bincount(label_map.ravel(), minlength=labels) / label_map.size


def _extractor(tools: Tools) -> str:
    """AlexNet, as in the paper, where its weights are there. A damaged file counts, so that opening it tells of it."""
    return _PREFERRED if tools.weights.has(_PREFERRED) else _AT_HAND


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.training is not None
    name, reading = _extractor(tools), subject.protocol.reading
    samples = subject.first_styles()
    reals = [subject.example(sample) for sample in samples]
    of_samples, of_reals = (
        tools.features.features(name, whole(part), reading)["features"] for part in (samples, reals)
    )
    searched = _searched(subject.training.examples, of_samples.shape[1], tools.seed)
    of_training = tools.features.features(name, whole(searched), reading)["features"]
    (near, places), (near_real, _) = (nearest_cosines(part, of_training) for part in (of_samples, of_reals))
    facts = {
        "images": len(samples), "training_images": len(searched), "of_training_images": len(subject.training.examples),
        "features": of_samples.shape[1], "share_nearer_than_real": float((near > near_real).double().mean()),
    }  # fmt: skip
    score = Score(
        score_name("nearest_cosine", name), float(near.mean()), "lower", float(near.std()), float(near_real.mean()),
        facts=facts | {"spread": "over images"},
    )  # fmt: skip
    return Measured((score,), (_write_sheet(subject, tools, [searched[place] for place in places[:_COLUMNS]], name),))


def _searched(examples: Sequence[Example], features: int, seed: int) -> list[Example]:
    most = max(1, MOST_NUMBERS // features)
    if len(examples) <= most:
        return list(examples)
    return [examples[place] for place in sorted(np.random.default_rng(seed).permutation(len(examples))[:most])]


def _write_sheet(subject: Subject, tools: Tools, by_features: Sequence[Example], network: str) -> str:
    """The first layouts, what was generated from them, the real images, and the nearest by both measures."""
    assert subject.source is not None
    assert subject.training is not None
    samples = subject.first_styles()[:_COLUMNS]
    reals = [subject.example(sample) for sample in samples]
    layouts = first_layouts(subject, tools)
    maps = np.stack([label_map(example) for example in subject.training.examples])
    likenesses = [
        global_scene_consistency(label_map(example), maps, len(subject.source.vocabulary.labels)) for example in reals
    ]
    by_layout = [subject.training.examples[int(likeness.argmax())] for likeness in likenesses]
    side_px = subject.protocol.reading.side_px

    def shown(regions: Sequence[Region]) -> list[Tile]:
        return [Tile(Image.fromarray(read(region, subject.protocol.reading, side_px))) for region in regions]

    rows = [
        Row("layout", [Tile(layout_picture(layouts[sample.place or 0], _TILE_PX)) for sample in samples]),
        Row("generated", shown(whole(samples))),
        Row("real", shown(whole(reals))),
        Row(f"nearest by\n{network}", shown(whole(by_features))),
        Row("nearest layout\n(GSC below)", [
            Tile(tile.picture, f"{likeness.max():.2f}")
            for tile, likeness in zip(shown(whole(by_layout)), likenesses, strict=True)
        ]),
    ]  # fmt: skip
    return write_sheet(tools.out / SHEET, rows, _TILE_PX)


METRIC = Metric("neighbours", "Cosine similarity of images to their nearest training image", needs_training, _measure)
