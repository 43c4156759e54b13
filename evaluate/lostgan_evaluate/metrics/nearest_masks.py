"""Learned masks and their nearest true masks of the same label (section 3.1.4, table 4 and figure 8).

A learned mask is the region that an object owns in the object map, cut out of its box. The levels of soft masks say
little by themselves, since ISLA-Norm divides each pixel's by their sum: of the bundled model's, most are below a half
everywhere. True masks are cut out of their boxes likewise, and all are compared at 32 x 32 px.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lostgan_evaluate.metrics import Metric, needs_training
from lostgan_evaluate.metrics.object_maps import needs_object_maps, object_map_of
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.contract import Array
from lostgan_serve.errors import EvaluationError
from lostgan_serve.figures import Tile
from lostgan_train.data import Source
from lostgan_train.data.masks import TrueMask, TrueObject, all_objects, cut, objects_of, read_masks, without_masks

SIDE_PX = 32
"""Side that masks are compared at, as in the paper."""

MOST_MASKS = 2000
"""True masks of a category that are searched at most; of more, as many are drawn by the seed."""

SHEET = "nearest-masks.png"

_ROWS, _NEIGHBOURS, _TILE_PX = 8, 10, 96

ByLabel = Mapping[int, Tensor]
"""Masks by the id of their label: [N, 1024] bool each."""


def nearest(masks: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the masks of the largest IoU: [N, 1024] among [M, 1024]. Returns IoUs and indices, [N, count] each, the
    nearest first; the IoU of two empty masks is 0."""
    both = masks.float() @ others.float().T
    either = masks.sum(1, keepdim=True) + others.sum(1) - both
    found = (both / either.clamp(min=1)).topk(min(count, len(others)), 1)
    return found.values, found.indices


def _why_not(subject: Subject, tools: Tools) -> str | None:
    if reason := needs_object_maps(subject, tools) or needs_training(subject, tools):
        return reason
    assert subject.training_data is not None
    return without_masks(subject.training_data)


def _drawn(source: Source, labels: set[int], seed: int) -> list[TrueObject]:
    """The training objects whose masks are searched: of each label all, or `MOST_MASKS`."""
    by_label: dict[int, list[TrueObject]] = defaultdict(list)
    for example in source.examples:
        for item in objects_of(example):
            if item.label in labels:
                by_label[item.label].append(item)
    rng = np.random.default_rng(seed)
    chosen: list[TrueObject] = []
    for label in sorted(by_label):
        items = by_label[label]
        places = rng.permutation(len(items))[:MOST_MASKS]
        chosen += [items[place] for place in sorted(places)]
    return chosen


def _learned(subject: Subject, tools: Tools) -> ByLabel:
    """The regions of the objects in the first style of each layout."""
    samples = subject.first_styles()
    with tools.progress.count("cutting learned masks", len(samples)) as advance:

        def cuts() -> Iterator[tuple[int, Array]]:
            for done, sample in enumerate(samples, 1):
                owners = object_map_of(sample)
                for slot, item in enumerate(objects_of(subject.example(sample))):
                    yield item.label, cut(owners == slot, item.box, SIDE_PX)
                advance(done, "")

        return _stacked(cuts())


def _true(masks: Mapping[TrueObject, TrueMask]) -> ByLabel:
    return _stacked((item.label, cut(mask.pixels(), item.box, SIDE_PX)) for item, mask in masks.items())


def _stacked(cuts: Iterable[tuple[int, Array]]) -> ByLabel:
    by_label: dict[int, list[Array]] = defaultdict(list)
    for label, mask in cuts:
        by_label[label].append(mask)
    return {label: torch.from_numpy(np.stack(masks)).flatten(1) for label, masks in sorted(by_label.items())}


def _ious(masks: ByLabel, others: ByLabel) -> dict[int, Tensor]:
    """The IoU of each mask with the nearest of its label, [N], by the labels that both have."""
    return {label: nearest(own, others[label], 1)[0][:, 0] for label, own in masks.items() if label in others}


def _mean(ious: Mapping[int, Tensor]) -> float | None:
    """The mean over labels of the mean over masks."""
    return float(torch.stack([values.mean() for values in ious.values()]).mean()) if ious else None


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.source is not None
    assert subject.training is not None
    assert subject.training_data is not None
    vocabulary = subject.source.vocabulary
    evaluated = all_objects(subject.real)
    drawn = _drawn(subject.training, {item.label for item in evaluated}, tools.seed)
    with tools.progress.stage("reading true masks of training images"):
        truth = _true(read_masks(subject.training_data, "train", vocabulary, drawn))
    if not truth:
        raise EvaluationError(f"{subject.training_data}: its annotations have no masks (segmentation), only boxes")
    learned = _learned(subject, tools)
    ious = _ious(learned, truth)
    value = _mean(ious)
    if value is None:
        raise EvaluationError(f"{subject.training_data}: has no masks of the labels that are evaluated")
    facts = {
        "objects": sum(map(len, ious.values())), "labels": len(ious), "side_px": SIDE_PX,
        "mean_over_objects": float(torch.cat(list(ious.values())).mean()),
        "box_iou": _mean(_ious({label: torch.ones_like(masks[:1]) for label, masks in learned.items()}, truth)),
        "true_masks": sum(map(len, truth.values())), "most_masks_of_a_label": MOST_MASKS,
    }  # fmt: skip
    by_label = {vocabulary.labels[label]: float(values.mean()) for label, values in ious.items()}
    real = _real(subject, set(drawn), truth)
    score = Score("nearest_mask_iou", value, "higher", real=real, by_label=by_label, facts=facts)
    return Measured((score,), (_write_sheet(tools.out / SHEET, learned, truth, vocabulary.labels),))


def _real(subject: Subject, searched: set[TrueObject], truth: ByLabel) -> float | None:
    """The same score of the true masks of the evaluated objects. None where there are none but those searched."""
    assert subject.source is not None
    assert subject.data is not None
    others = {item for example in subject.real for item in objects_of(example)} - searched
    masks = read_masks(subject.data, subject.protocol.split, subject.source.vocabulary, others)
    return _mean(_ious(_true(masks), truth))


def _write_sheet(path: Path, learned: ByLabel, truth: ByLabel, labels: Sequence[str]) -> str:
    """Figure 8: for the labels that have most objects, the first learned mask and its nearest true ones."""
    common = sorted(learned.keys() & truth.keys(), key=lambda label: -len(learned[label]))[:_ROWS]
    rows = []
    for label in common:
        ious, places = nearest(learned[label][:1], truth[label], _NEIGHBOURS)
        tiles = [Tile(_picture(learned[label][0]), "learned")]
        tiles += [
            Tile(_picture(truth[label][place]), f"{iou:.2f}")
            for iou, place in zip(ious[0].tolist(), places[0].tolist(), strict=True)
        ]
        rows.append(Row(labels[label], tiles))
    return write_sheet(path, rows, _TILE_PX)


def _picture(mask: Tensor) -> Image.Image:
    return Image.fromarray(mask.view(SIDE_PX, SIDE_PX).numpy())


METRIC = Metric("nearest-masks", "IoU of learned masks with the nearest true masks of their label", _why_not, _measure)
