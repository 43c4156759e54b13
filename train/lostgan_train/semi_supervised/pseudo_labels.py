"""Pseudo-labels: objects that a detector finds in images without annotations, and how right they are."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
from torch import Tensor, nn
from torchvision.ops import box_convert

from lostgan_serve.progress import SILENT, Progress
from lostgan_train.data import Example, LayoutDataset, load
from lostgan_train.distributed import Processes
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.signals import stop_on_signals

Detected = dict[str, list[Any]]
"""The objects of one image: labels, boxes (x, y, width, height in [0, 1]) and scores, the most probable first."""


@dataclass(frozen=True)
class Precision:
    """Average precision of detections against annotations, in [0, 1], as COCO defines it (pycocotools): over IoU
    thresholds from 0.5 to 0.95, at 0.5, and at 0.75. Each is the mean over the labels that are annotated, -1 where none
    is. by_label: the first, by the id of each such label."""

    ap: float
    ap50: float
    ap75: float
    by_label: Mapping[int, float] = field(default_factory=dict)


@torch.no_grad()
def detect(
    network: nn.Module,
    dataset: LayoutDataset,
    least_score: float,
    batch: int,
    workers: int,
    processes: Processes,
    progress: Progress = SILENT,
) -> dict[int, Detected] | None:
    """The objects that a detector finds in this process's share of a dataset's images, by the index of the image.

    dataset: of images of `detectors.SIDE_PX`, none mirrored. least_score: least probability. batch: images at a time.
    Images that cannot be decoded are left out. None where SIGTERM or SIGINT reached any process.
    """
    cast(Any, network.eval()).roi_heads.score_thresh = least_score
    rounds = -(-len(dataset) // (batch * processes.count))
    # every process makes as many rounds, so that all can agree in each of them
    own = [k % len(dataset) for k in range(processes.rank, rounds * batch * processes.count, processes.count)]
    chunks = [own[k : k + batch] for k in range(0, len(own), batch)]
    found: dict[int, Detected] = {}
    stop: list[bool] = []
    told = processes.telling(progress).count("detecting objects", rounds)
    with (
        stop_on_signals(lambda: stop.append(True)), told as advance, closing(load(dataset, chunks, workers)) as batches,
    ):  # fmt: skip
        for number, (indices, images) in enumerate(zip(chunks, batches, strict=True), 1):
            results = network(detectors.images_of(images, processes.device))
            found |= {index: _detected(result) for index, result in zip(indices, results, strict=True)}
            advance(number, "")
            if processes.any(bool(stop))[0]:
                return None
    unreadable = set(dataset.unreadable)  # the dataset showed the next image in place of each of them
    examples = dataset.source.examples
    return {index: each for index, each in sorted(found.items()) if examples[index].image not in unreadable}


def _detected(result: dict[str, Tensor]) -> Detected:
    boxes = box_convert(result["boxes"].double().cpu() / detectors.SIDE_PX, "xyxy", "xywh")
    return {"labels": result["labels"].tolist(), "boxes": boxes.tolist(), "scores": result["scores"].tolist()}


def pseudo_label(image: Example, detected: Detected, threshold: float, least_area: float, most: int) -> Example:
    """An image with the objects that were detected in it, the most probable first, and their probabilities as weights.

    threshold: least probability. least_area: as a share of the image. most: objects at most.
    """
    objects = [
        (label, tuple(box), score)
        for label, box, score in zip(detected["labels"], detected["boxes"], detected["scores"], strict=True)
        if score >= threshold and box[2] * box[3] >= least_area
    ][:most]
    labels, boxes, scores = (tuple(column) for column in zip(*objects, strict=True)) if objects else ((), (), ())
    return replace(image, labels=labels, boxes=cast(Any, boxes), weights=scores)


def average_precision(detected: Sequence[Detected], truth: Sequence[Example]) -> Precision:
    """The agreement of detections with annotations, image by image, by pycocotools."""
    side = detectors.SIDE_PX
    annotations: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label, "bbox": [side * v for v in box], "iscrowd": 0}
        for image, example in enumerate(truth)
        for label, box in zip(example.labels, example.boxes, strict=True)
    ]
    results = [
        {"image_id": image, "category_id": label, "bbox": [side * v for v in box], "score": score}
        for image, each in enumerate(detected)
        for label, box, score in zip(each["labels"], each["boxes"], each["scores"], strict=True)
    ]
    if not annotations:
        return Precision(-1, -1, -1)
    labels = sorted({each["category_id"] for each in annotations})
    if not results:
        return Precision(0, 0, 0, dict.fromkeys(labels, 0.0))
    with redirect_stdout(io.StringIO()):  # it prints its progress
        ground = COCO()
        ground.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label} for label in labels],
            "annotations": [
                {"id": k, "area": each["bbox"][2] * each["bbox"][3], **each} for k, each in enumerate(annotations, 1)
            ],
            "info": {},
        }
        ground.createIndex()
        scores = COCOeval(ground, ground.loadRes(results), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    ap, ap50, ap75 = (float(value) for value in scores.stats[:3])
    # by IoU, recall, label, size of the object (all of them first), and detections of an image (the most last)
    by_label = scores.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    return Precision(ap, ap50, ap75, dict(zip(labels, by_label.tolist(), strict=True)))
