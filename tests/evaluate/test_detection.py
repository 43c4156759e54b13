"""Average precision of a detector: pycocotools' own, of the labels that there are, and trained once."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
from torch import Tensor

from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.images import Reading
from lostgan_evaluate.metrics import detection
from lostgan_evaluate.protocols import Protocol, protocol_named
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Sample, Subject, Tools
from lostgan_evaluate.weights import WeightFile, WeightFiles
from lostgan_serve.layout import Box
from lostgan_serve.progress import SILENT
from lostgan_train.data import Batch, Example, Source
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.semi_supervised.detector import Detector
from lostgan_train.semi_supervised.pseudo_labels import Detected, average_precision

LABELS = (1, 2, 3, 4)
SCENES = protocol_named("scenes-64")


def image_of(*objects: tuple[int, Box]) -> Example:
    labels, boxes = zip(*objects, strict=True)
    return Example(Path("none.png"), labels, boxes, (1.0,) * len(labels))


def found(*objects: tuple[int, Box, float]) -> Detected:
    labels, boxes, scores = (list(column) for column in zip(*objects, strict=True)) if objects else ([], [], [])
    return {"labels": labels, "boxes": [list(box) for box in boxes], "scores": scores}


@pytest.fixture
def truth() -> list[Example]:
    rng = np.random.default_rng(0)
    return [image_of(*((int(rng.choice(LABELS)), a_box(rng)) for _ in range(4))) for _ in range(12)]


@pytest.fixture
def detected(truth: list[Example]) -> list[Detected]:
    """Boxes near those of the truth, some of another label, and some of nothing."""
    rng = np.random.default_rng(1)
    return [
        found(
            *(
                (label if rng.random() < 0.7 else 2, near(rng, box), float(rng.random()))
                for label, box in zip(example.labels, example.boxes, strict=True)
            ),
            (3, a_box(rng), float(rng.random())),
        )
        for example in truth
    ]


def a_box(rng: np.random.Generator) -> Box:
    x, y, width, height = (float(value) for value in rng.uniform(0.1, 0.5, 4))
    return x, y, width, height


def near(rng: np.random.Generator, box: Box) -> Box:
    x, y, width, height = (value + float(rng.normal(0, 0.02)) for value in box)
    return x, y, width, height


def by_pycocotools(detected: Sequence[Detected], truth: Sequence[Example], folder: Path) -> list[float]:
    """AP, AP50, AP75 as pycocotools' own files and summary give them, in px of another size than ours."""
    boxes = [
        (k, label, box) for k, each in enumerate(truth) for label, box in zip(each.labels, each.boxes, strict=True)
    ]
    document = {
        "images": [{"id": k, "width": 500, "height": 500} for k in range(len(truth))],
        "categories": [{"id": label, "name": str(label)} for label in LABELS],
        "annotations": [
            {"id": n, "image_id": k, "category_id": label, "bbox": [500 * v for v in box], "iscrowd": 0}
            | {"area": 500**2 * box[2] * box[3]}
            for n, (k, label, box) in enumerate(boxes, 1)
        ],
        "info": {},
    }
    results = [
        {"image_id": k, "category_id": label, "bbox": [500 * v for v in box], "score": score}
        for k, each in enumerate(detected)
        for label, box, score in zip(each["labels"], each["boxes"], each["scores"], strict=True)
    ]
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "found.json").write_text(json.dumps(results))
    ground = COCO(folder / "truth.json")
    scores = COCOeval(ground, ground.loadRes(str(folder / "found.json")), "bbox")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    return [float(value) for value in scores.stats[:3]]


def test_equal_to_pycocotools(detected: list[Detected], truth: list[Example], tmp_path: Path) -> None:
    ours = average_precision(detected, truth)
    assert [ours.ap, ours.ap50, ours.ap75] == pytest.approx(by_pycocotools(detected, truth, tmp_path), abs=1e-9)
    assert 0.1 < ours.ap < ours.ap50 < 0.9
    assert np.mean(list(ours.by_label.values())) == pytest.approx(ours.ap)


def test_a_label_that_no_layout_has_does_not_count(
    detected: list[Detected], truth: list[Example], tmp_path: Path
) -> None:
    """COCOeval gives -1 for it, which would lower a mean that takes it up."""
    without = [replace(each, labels=tuple(4 if label == 3 else label for label in each.labels)) for each in truth]
    ours = average_precision(detected, without)
    assert any(3 in each["labels"] for each in detected)
    assert set(ours.by_label) == {1, 2, 4}
    assert min(ours.by_label.values()) >= 0
    assert ours.ap == pytest.approx(by_pycocotools(detected, without, tmp_path)[0], abs=1e-9)
    fewer = [found(*(row for row in zip(*each.values(), strict=True) if row[0] != 3)) for each in detected]
    assert average_precision(fewer, without) == ours


def test_an_object_is_found_by_its_label_and_place() -> None:
    whole: Box = (0.0, 0.0, 1.0, 1.0)
    truth = [image_of((1, whole), (2, (0.0, 0.0, 0.5, 0.5))), image_of((1, (0.5, 0.5, 0.5, 0.5)))]
    for seen, share in (
        ([found((1, whole, 0.9), (2, (0.0, 0.0, 0.5, 0.5), 0.6)), found((1, (0.5, 0.5, 0.5, 0.5), 0.9))], 1),
        ([found((2, whole, 0.9)), found((1, (0.5, 0.5, 0.5, 0.2), 0.9))], 0),  # another label, another place
        ([found((1, whole, 0.4)), found((1, (0.5, 0.5, 0.5, 0.4), 0.9))], 1 / 3),  # not sure; near enough
        ([found(), found()], 0),
    ):
        assert detection.share_found(seen, truth) == pytest.approx(share)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_detector: None) -> None:
    """A detector of a few thousand weights, and four steps."""
    monkeypatch.setitem(detection.STEPS, "mobilenet", 4)
    monkeypatch.setattr(detection, "_LEAST_SCORE", 0.0)  # it is sure of nothing
    monkeypatch.setattr(detection, "_WORKERS", 0)


def no_features(folder: Path) -> FeatureStore:
    return FeatureStore(folder, lambda _: None)  # type: ignore[arg-type, return-value]


def measured(source: Source, out: Path, protocol: Protocol = SCENES) -> dict[str, Score]:
    """The scores of a perfect generator, whose images are the real ones."""
    samples = tuple(Sample(example.image, place) for place, example in enumerate(source.examples))
    few = replace(source, examples=source.examples[:10])
    subject = Subject("real", samples, source.examples, protocol, source, training=few)
    tools = Tools(out, out, no_features(out), WeightFiles(), (), SILENT)
    return {score.name: score for score in detection.METRIC.measure(subject, tools).scores}


def test_real_images_are_as_good_as_real_ones(source: Source, tiny: None, tmp_path: Path) -> None:
    """Scores of another network than the paper's carry its name."""
    scores = measured(source, tmp_path)
    assert list(scores) == ["ap_mobilenet", "ap50_mobilenet", "ap75_mobilenet", "found_mobilenet"]
    for score in scores.values():
        assert score.value == score.real
    facts = scores["ap_mobilenet"].facts
    assert facts["training_images"] == 10
    assert facts["images"] == facts["real_images"] == len(source.examples)
    labels = {label for example in source.examples for label in example.labels}
    assert set(scores["ap_mobilenet"].by_label) == {source.vocabulary.labels[label] for label in labels}


def test_the_detector_is_trained_once_also_where_it_is_interrupted(
    source: Source, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    step = Detector.step

    def counting(detector: Detector, batch: Batch, number: int) -> dict[str, float]:
        made.append(number)
        if len(made) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(detector, batch, number)

    monkeypatch.setattr(Detector, "step", counting)
    with pytest.raises(KeyboardInterrupt):
        measured(source, tmp_path)
    first = measured(source, tmp_path)
    assert measured(source, tmp_path) == first
    assert made == [0, 1, 2, 3]


def test_all_images_are_read_as_the_protocol_says(
    source: Source, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read at one px, an image is of one colour, whatever the side that the detector sees."""
    seen: list[Tensor] = []
    images_of = detectors.images_of

    def listening(batch: Batch, device: torch.device) -> list[Tensor]:
        seen.extend(batch["image"])
        return images_of(batch, device)

    monkeypatch.setattr(detectors, "images_of", listening)
    measured(source, tmp_path, replace(SCENES, reading=Reading(1)))
    assert len(seen) >= 2 * len(source.examples) + 4 * detection.BATCH
    assert all(image.shape == (3, 64, 64) and not image.flatten(1).std(1).any() for image in seen)


def test_the_paper_s_data_have_the_paper_s_detector(tmp_path: Path) -> None:
    """It starts from the weights that are at hand; those are of no use to another one."""
    file = tmp_path / "weights.pth"
    file.write_bytes(b"weights")
    known = {"detector": WeightFile(file.name, hashlib.sha256(b"weights").hexdigest(), "", "")}
    for weights, start in ((WeightFiles(), None), (WeightFiles(tmp_path, known), file)):
        tools = Tools(tmp_path, tmp_path, no_features(tmp_path), weights, (), SILENT)
        papers, own = (detection.plan_for(protocol_named(name), 5, tools) for name in ("paper-coco-128", "own-64"))
        assert (papers.architecture, papers.weights) == ("resnet50", start)
        assert (own.architecture, own.weights) == ("mobilenet", None)
        assert papers.batch == own.batch == 5
