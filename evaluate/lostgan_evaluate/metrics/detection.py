"""Average precision of a detector (section 3.1.2, table 3): trained on real images, run on generated ones.

A generated image that shows what its layout asks for, where it asks for it, is one in which the detector finds the
layout's boxes. The detector is the Faster R-CNN of semi-supervised training. It starts from random weights, and the
paper's ResNet-50 from those of COCO where that file is at hand. All images, those that it learns from among them, are
read as the protocol says and then stretched to the detector's side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.ops import box_convert, box_iou

from lostgan_evaluate.images import Reading, Region, read
from lostgan_evaluate.metrics import Metric, needs_training
from lostgan_evaluate.protocols import Protocol
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.contract import Array
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train import distributed
from lostgan_train.data import Example, LayoutDataset, Source
from lostgan_train.distributed import Processes
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.semi_supervised.detector import Detector, DetectorPlan, batches_for, loop_of
from lostgan_train.semi_supervised.pseudo_labels import Detected, average_precision, detect
from lostgan_train.states import key_of

Look = tuple[list[Detected], list[Example]]
"""What a detector found in images, and the layouts of these."""

PAPERS = "resnet50"
"""The detector whose scores have the names of table 3."""

STEPS = {"mobilenet": 300, PAPERS: 90_000}
"""Updates by architecture. A step of mobilenet took 2.4 s on a CPU core, one of resnet50 10 s; the 90,000 are those of
the usual schedule on COCO, with half its batch, and are meant for a GPU."""

BATCH = 8
FOUND_SCORE, FOUND_IOU = 0.5, 0.5
"""Least probability, and least IoU with an object's box, of a detection that finds the object."""

_LEAST_SCORE = 0.05
_WORKERS = 2


class _ReadAs(LayoutDataset):
    """Images that are read as a protocol says before they are stretched to the detector's side."""

    def __init__(self, source: Source, how: Reading, flip: bool, seed: int = 0) -> None:
        most = max(len(example.labels) for example in source.examples) + source.vocabulary.background
        slots = max(source.vocabulary.slots, most)
        super().__init__(source, detectors.SIDE_PX, slots=slots, flip=flip, seed=seed)
        self.how = how

    def pixels(self, example: Example) -> Array:
        """As of `LayoutDataset.pixels`."""
        image = Image.fromarray(read(Region(example.image, example.size_px), self.how))
        return np.array(image.resize((self.resolution, self.resolution), Image.Resampling.BILINEAR))


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.source is not None
    assert subject.training is not None
    plan = plan_for(subject.protocol, len(subject.training.examples), tools)
    processes = distributed.start()
    network = _trained(plan, subject.training, subject.protocol.reading, tools, processes)
    looks = []
    for examples in (_generated(subject), subject.real):
        images = _ReadAs(replace(subject.source, examples=tuple(examples)), subject.protocol.reading, flip=False)
        found = detect(network, images, _LEAST_SCORE, BATCH, _WORKERS, processes, tools.progress)
        if found is None:
            raise KeyboardInterrupt
        looks.append((list(found.values()), [examples[index] for index in found]))
    facts = {
        "unit": "percent",
        "detector": plan.architecture,
        "weights": "random" if plan.weights is None else plan.weights.name,
        "steps": plan.steps,
        "batch": plan.batch,
        "training_images": len(subject.training.examples),
        "images": len(looks[0][0]),
        "real_images": len(looks[1][0]),
    }
    return Measured(tuple(_scores(plan.architecture, looks, subject.source.vocabulary, facts)))


def plan_for(protocol: Protocol, training_images: int, tools: Tools) -> DetectorPlan:
    """The training of a protocol's detector: the paper's for its data, a quick one for others."""
    architecture = PAPERS if protocol.name.startswith("paper-") else "mobilenet"
    has_weights = architecture == PAPERS and tools.weights.has("detector")  # a damaged file is told of
    weights = tools.weights.path("detector") if has_weights else None
    return DetectorPlan(architecture, STEPS[architecture], min(BATCH, training_images), tools.seed, _WORKERS, weights)


def _generated(subject: Subject) -> list[Example]:
    """The layouts with the first style that was generated of each in place of the real image."""
    shown = [sample for sample in subject.first_styles() if sample.place is not None]
    return [replace(subject.example(sample), image=sample.file, size_px=None) for sample in shown]


def _trained(plan: DetectorPlan, training: Source, how: Reading, tools: Tools, processes: Processes) -> nn.Module:
    """The detector of a plan. Its state is kept in a folder named after all that it depends on."""
    shown = [(example.image.name, example.labels, example.boxes) for example in training.examples]
    folder = tools.networks / "detector" / key_of(plan, how, training.vocabulary.labels, shown)
    detector = Detector(plan, len(training.vocabulary), processes, tools.progress)
    loop = loop_of(detector, plan, folder, {}, processes, tools.progress)
    loop.resume()
    images = _ReadAs(training, how, flip=True, seed=plan.seed)
    if loop.done < plan.steps and not loop.run(batches_for(plan, images, processes)):
        raise KeyboardInterrupt
    return detector.network


def _scores(
    architecture: str, looks: list[Look], vocabulary: Vocabulary, facts: Mapping[str, object]
) -> Iterator[Score]:
    """AP, AP50, AP75 and the share found, on generated images beside real ones, in percent."""
    generated, real = (average_precision(*look) for look in looks)
    own = "" if architecture == PAPERS else f"_{architecture}"
    for name in ("ap", "ap50", "ap75"):
        by_label = generated.by_label if name == "ap" else {}
        yield Score(
            name + own,
            100 * getattr(generated, name),
            "higher",
            real=100 * getattr(real, name),
            by_label={vocabulary.labels[label]: 100 * value for label, value in by_label.items()},
            facts=facts,
        )
    found, found_real = (share_found(*look) for look in looks)
    least = {"least_probability": FOUND_SCORE, "least_iou": FOUND_IOU}
    yield Score(f"found_{architecture}", 100 * found, "higher", real=100 * found_real, facts={**facts, **least})


def share_found(found: Sequence[Detected], truth: Sequence[Example]) -> float:
    """The share of all objects in [0, 1] for which a detection has their label and about their box.

    found, truth: the detections in each image, and its objects. One detection may find several objects.
    """
    hits = [hit for each, example in zip(found, truth, strict=True) for hit in _hits(each, example)]
    return sum(hits) / len(hits)


def _hits(found: Detected, example: Example) -> list[bool]:
    """Whether each object of an image is found."""
    sure = [k for k, score in enumerate(found["scores"]) if score >= FOUND_SCORE]
    boxes = torch.tensor([found["boxes"][k] for k in sure]).view(-1, 4)
    labels = torch.tensor([found["labels"][k] for k in sure], dtype=torch.int64)
    overlaps = box_iou(
        *(box_convert(each, "xywh", "xyxy") for each in (torch.tensor(example.boxes).view(-1, 4), boxes))
    )
    same = torch.tensor(example.labels)[:, None] == labels[None]
    hits: list[bool] = ((overlaps >= FOUND_IOU) & same).any(1).tolist()
    return hits


METRIC = Metric(
    "detection",
    "average precision of a detector that learns from real images",
    needs_training,
    _measure,
)
