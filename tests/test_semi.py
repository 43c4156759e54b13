"""Semi-supervised training: every stage goes on where it stopped, and what a detector found weighs what it should."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from conftest import Cli
from lostgan_serve.errors import CheckpointError, DataError, TrainingError
from lostgan_train import distributed, semi
from lostgan_train.cli import semi as command
from lostgan_train.data import Batch, Example, LayoutDataset, Source, open_data
from lostgan_train.losses import adversarial_loss, discriminator_loss
from lostgan_train.networks.discriminator import Scores
from lostgan_train.semi import DETECTOR_FILE, LABELS_FILE, DetectorTrainer, SemiConfig, complete, label, measure, split
from lostgan_train.synthetic.dataset import write_dataset
from lostgan_train.trainer import LOG_FILE, MOST_SKIPS

CONFIG = SemiConfig(threshold=0.002, detector_steps=3, detector_batch=2)  # an untrained detector is sure of nothing
OPTIONS = (
    *("--variant", "v1-64", "--ch", 2, "--batch", 4, "--perceptual", "none", "--workers", 0, "--threshold", 0.002),
    *("--detector-steps", 3, "--detector-batch", 2),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, 18, 64, workers=1)  # two of them are dropped
    return folder


@pytest.fixture(scope="module")
def source(scenes: Path) -> Source:
    return open_data(scenes)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Faster R-CNN of a few thousand weights, batch norm included, that sees images of 64 px."""

    def build(labels: int) -> FasterRCNN:
        backbone = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU())
        backbone.out_channels = 8  # type: ignore[assignment]
        return FasterRCNN(
            backbone,
            min_size=64,
            max_size=64,
            rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
            box_head=TwoMLPHead(8 * 9, 16),
            box_predictor=FastRCNNPredictor(16, labels),
        )

    monkeypatch.setattr(semi, "SIDE_PX", 64)
    monkeypatch.setattr(semi, "build_detector", build)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Iterator[tuple[Path, str]]:
    """The folder of a whole run of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("semi") / "run"
    printed = cli("semi", *OPTIONS, "--data", scenes, "--out", folder, "--steps", 2, check=True).stdout
    yield folder, printed
    shutil.rmtree(folder)


class FakeDetector(nn.Module):
    """Finds the same boxes in every image, as a torchvision detector would: of 320 px."""

    def __init__(self, boxes: list[list[float]], labels: list[int], scores: list[float]) -> None:
        super().__init__()
        self.roi_heads, self.weight = nn.Module(), nn.Parameter(torch.zeros(1))
        self.found = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.found for _ in images]


class Interrupted(DetectorTrainer):
    """Meets a SIGTERM during its second step."""

    def step(self, batch: Batch) -> dict[str, float]:
        if self.done == 1:
            signal.raise_signal(signal.SIGTERM)
        return super().step(batch)


def trainer(
    source: Source, out: Path, kind: type[DetectorTrainer] = DetectorTrainer, **changes: Any
) -> DetectorTrainer:
    return kind(CONFIG, source, out, {"seed": 0, **changes}, 0, lambda _: None)


def quiet(config: SemiConfig, source: Source, data: Path, out: Path) -> Source:
    completed = complete(config, source, data, out, 0, lambda _: None)
    assert completed
    return completed


def assert_same_state(one: DetectorTrainer, other: DetectorTrainer) -> None:
    theirs = other.detector.state_dict()
    for key, value in one.detector.state_dict().items():
        assert torch.equal(value, theirs[key]), key


def test_the_command_trains_a_detector_labels_and_trains_a_lostgan(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {*(DETECTOR_FILE, LABELS_FILE, "state-0000002.pt", "generator.safetensors", LOG_FILE, "curves.png")}
    for words in (
        "detector: step 3/3",
        "labelled: 8 images",
        "precision 0.",
        "training on 8 annotated images",
        "step 2/2",
    ):
        assert words in printed, words


def test_the_same_command_goes_on_and_repeats_nothing(
    finished: tuple[Path, str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DETECTOR_FILE))
    before = (tmp_path / LABELS_FILE).stat().st_mtime_ns
    words = [str(word) for word in (*OPTIONS, "--data", scenes, "--out", tmp_path, "--steps", 3)]
    command.main(words, standalone_mode=False)
    assert "detector: step" not in capsys.readouterr().out
    assert not (tmp_path / DETECTOR_FILE).exists()
    assert (tmp_path / LABELS_FILE).stat().st_mtime_ns == before
    assert [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()] == [1, 2, 3]


def test_other_options_than_those_of_the_run_are_refused(
    finished: tuple[Path, str], source: Source, scenes: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    words = [str(word) for word in (*OPTIONS, "--data", scenes, "--out", folder, "--threshold", 0.6)]
    with pytest.raises(TrainingError, match=r"labels\.json: made with threshold 0\.002, not 0\.6; .* another --out$"):
        command.main(words, standalone_mode=False)
    for change in ({"annotated": 0.25}, {"seed": 1}, {"detector_steps": 4}):
        with pytest.raises(TrainingError, match=f"made with {next(iter(change))} "):
            quiet(replace(CONFIG, **change), source, scenes, folder)
    with pytest.raises(TrainingError, match="made with images 16, not 15"):
        quiet(CONFIG, replace(source, examples=source.examples[1:]), scenes, folder)
    (tmp_path / "state-0000002.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="holds a run of `train`"):
        quiet(CONFIG, source, scenes, tmp_path)


def test_annotated_objects_weigh_1_and_detected_ones_their_probability(
    finished: tuple[Path, str], source: Source, scenes: Path
) -> None:
    folder, _ = finished
    labelled = json.loads((folder / LABELS_FILE).read_text())["images"]
    dataset = LayoutDataset(quiet(CONFIG, source, scenes, folder), 64)
    annotated, _ = split(source, 0.5, 0)
    kinds = []
    for item, example in zip((dataset[k] for k in range(len(dataset))), dataset.source.examples, strict=True):
        count = len(example.labels)
        found = labelled.get(str(example.image.relative_to(scenes)))
        expected = torch.tensor(found["scores"]) if found else torch.ones(count)
        assert torch.equal(item["weights"], nn.functional.pad(expected, (0, dataset.slots - count)))
        kinds.append(found is None)
        assert (example in annotated.examples) is (found is None)
        assert count <= 12
    assert sum(kinds) == 8 < len(kinds)


def test_the_weights_scale_each_object_in_the_losses() -> None:
    """Equation 15: the mean over an image's objects of p_i l_i; the second image has one object, in slot 1."""
    slots = torch.tensor([[0, 0], [0, 1], [1, 1]])
    real = Scores(torch.zeros(2, 1), torch.tensor([[0.5], [-1.0], [2.0]]), slots)
    fake = Scores(torch.zeros(2, 1), torch.tensor([[1.0], [3.0], [-0.5]]), slots)
    weights = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    on_real, on_fake = ((0.5 + 0.6 * 2) / 2 + 0) / 2, ((2 + 0.6 * 4) / 2 + 0.8 * 0.5) / 2
    assert float(discriminator_loss(real, fake, weights, 0.0)) == pytest.approx(on_real + on_fake)
    assert float(adversarial_loss(fake, weights, 0.0)) == pytest.approx(-((1 + 0.6 * 3) / 2 - 0.8 * 0.5) / 2)


def test_a_split_is_even_and_a_function_of_the_seed(source: Source) -> None:
    first, second = split(source, 0.5, 3)
    assert (len(first.examples), len(second.examples)) == (8, 8)
    assert set(first.examples) | set(second.examples) == set(source.examples)
    assert split(source, 0.5, 3) == (first, second)
    assert split(source, 0.5, 4) != (first, second)
    with pytest.raises(DataError, match=r"--annotated 0\.01 of 16 images is 0"):
        split(source, 0.01, 0)


def test_a_detector_interrupted_and_resumed_equals_an_uninterrupted_one(
    source: Source, tiny: None, tmp_path: Path
) -> None:
    whole = trainer(source, tmp_path / "whole")
    assert whole.run()
    assert not trainer(source, tmp_path / "parts", Interrupted).run()
    second = trainer(source, tmp_path / "parts")
    assert second.done == 2
    assert second.run()
    assert_same_state(whole, second)


def test_a_detector_of_another_run_or_a_damaged_one_is_refused(source: Source, tiny: None, tmp_path: Path) -> None:
    assert not trainer(source, tmp_path, Interrupted).run()
    with pytest.raises(TrainingError, match="made with seed 0, not 1"):
        trainer(source, tmp_path, seed=1)
    (tmp_path / DETECTOR_FILE).write_bytes((tmp_path / DETECTOR_FILE).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="delete it to train it anew"):
        trainer(source, tmp_path)


def test_a_step_that_is_not_finite_changes_nothing(source: Source, tiny: None, tmp_path: Path) -> None:
    run, untouched = trainer(source, tmp_path), trainer(source, tmp_path)
    batch = next(run.batches())
    batch["image"][0] = float("nan")
    run.step(batch)
    assert_same_state(run, untouched)
    run.skipped_in_a_row = MOST_SKIPS - 1
    with pytest.raises(TrainingError, match="20 steps in a row"):
        run.step(batch)


def test_labelling_keeps_to_the_limits_of_the_data(source: Source, tmp_path: Path) -> None:
    """The most probable objects up to the slots, none smaller than all annotated ones, no undecodable image."""
    annotated, unlabelled = split(source, 0.5, 0)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    examples = (replace(unlabelled.examples[0], image=broken), *unlabelled.examples[1:])
    boxes = [[0.0, 0.0, 1.0, 1.0], *([16.0 * k, 32.0, 16.0 * k + 64, 160.0] for k in range(14))]
    detector = FakeDetector(boxes, [1, *range(1, 15)], [1 - k / 32 for k in range(15)])
    labelled = label(detector, annotated, replace(unlabelled, examples=examples), CONFIG, 0)
    assert labelled is not None
    assert [example.image for example in labelled] == [example.image for example in unlabelled.examples[1:]]
    assert labelled[0].labels == tuple(range(1, 13))
    assert labelled[0].weights == tuple(1 - k / 32 for k in range(1, 13))
    assert labelled[0].boxes[1] == pytest.approx((0.05, 0.1, 0.2, 0.4))


def test_labelling_stops_on_a_signal(source: Source) -> None:
    detector = FakeDetector([[0.0, 0.0, 320.0, 320.0]], [1], [0.9])
    detector.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    lines: list[str] = []
    assert label(detector, *split(source, 0.5, 0), CONFIG, 0, lines.append) is None
    assert lines == ["stopped while labelling; the same command begins that stage again"]


def test_a_detector_that_finds_nothing_is_told(
    finished: tuple[Path, str], source: Source, scenes: Path, tmp_path: Path
) -> None:
    content = json.loads((finished[0] / LABELS_FILE).read_text())
    content["images"] = {}
    (tmp_path / LABELS_FILE).write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=r"no image got \d objects of probability 0\.002; .* more --detector-steps"):
        quiet(CONFIG, source, scenes, tmp_path)
    (tmp_path / LABELS_FILE).write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        quiet(CONFIG, source, scenes, tmp_path)


def test_other_processes_wait_for_the_labels(
    finished: tuple[Path, str], source: Source, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "start", lambda: (1, 2))
    monkeypatch.setattr(semi, "_POLL_S", 0.05)
    writer = threading.Timer(0.3, shutil.copy, (finished[0] / LABELS_FILE, tmp_path / LABELS_FILE))
    writer.start()
    assert quiet(CONFIG, source, scenes, tmp_path) == quiet(CONFIG, source, scenes, finished[0])
    assert [path.name for path in tmp_path.iterdir()] == [LABELS_FILE]


def test_quality_counts_each_annotated_object_once() -> None:
    truth = Example(Path("a"), (1, 2, 3), ((0, 0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1)), (1, 1, 1))
    twice_and_mislabelled = Example(
        Path("a"), (1, 1, 3), ((0, 0, 0.5, 0.4), (0, 0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)), (0.9, 0.8, 0.7)
    )
    found = measure([twice_and_mislabelled, replace(truth, labels=(), boxes=(), weights=())], [truth, truth])
    assert (found.images, found.objects) == (2, 3)
    assert (found.mean_score, found.precision, found.recall) == pytest.approx((0.8, 1 / 3, 1 / 6))
