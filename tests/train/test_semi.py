"""Semi-supervised training: every stage goes on where it stopped, and what a detector found weighs what it should."""

from __future__ import annotations

import json
import shutil
import signal
import weakref
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import FrozenBatchNorm2d

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import CheckpointError, DataError, TrainingError
from lostgan_serve.progress import SILENT
from lostgan_train import distributed
from lostgan_train.data import Example, LayoutDataset, Source, open_data
from lostgan_train.gan import GAN
from lostgan_train.loop import LOG_FILE
from lostgan_train.losses import adversarial_loss, discriminator_loss
from lostgan_train.networks.discriminator import Scores
from lostgan_train.semi_supervised import complete
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.semi_supervised.detector import build_detector, load_weights
from lostgan_train.semi_supervised.pseudo_labels import Detected, average_precision, detect, pseudo_label
from lostgan_train.semi_supervised.stages import DETECTIONS_FILE, DETECTOR_FOLDER, detector_loop, parts
from lostgan_train.settings import SemiSettings
from lostgan_train.synthetic.dataset import write_dataset
from lostgan_train.training import train_semi
from training import OPTIONS, SETTINGS, Heard

OWN = ("--threshold", 0.002, "--detector-steps", 3, "--detector-batch", 2)
"""An untrained detector is sure of nothing."""


@pytest.fixture
def settings(scenes: Path) -> SemiSettings:
    own = {item.name: getattr(SETTINGS, item.name) for item in fields(SETTINGS)}
    return SemiSettings(**own | {"data": scenes}, threshold=0.002, detector_steps=3, detector_batch=2)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Iterator[tuple[Path, str]]:
    """The folder of a whole run of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("semi") / "run"
    printed = cli("semi", *OPTIONS, *OWN, "--data", scenes, "--out", folder, "--steps", 2, check=True).stderr
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


def quiet(settings: SemiSettings, source: Source, out: Path) -> Source:
    completed = complete(settings, source, out, SILENT)
    assert completed
    return completed


def test_the_command_trains_a_detector_labels_and_trains_a_lostgan(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    assert {path.name for path in folder.iterdir()} >= {
        *(DETECTOR_FOLDER, "run.json", "state-0000002.pt", "generator.safetensors", LOG_FILE, "curves.png")
    }
    assert (folder / DETECTOR_FOLDER / "state-0000003.pt").is_file()
    for words in (
        "detector: 3/3",
        "labelled: 11 images",
        "AP 0.",
        "AP50 0.",
        "training on 10 annotated images",
        "training: 2/2",
    ):
        assert words in printed, words


@pytest.mark.slow
def test_a_resumed_run_repeats_no_stage(finished: tuple[Path, str], tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    detections = tmp_path / DETECTOR_FOLDER / DETECTIONS_FILE
    before = detections.stat().st_mtime_ns
    printed = cli("semi", "--resume", "--out", tmp_path, "--steps", 3, check=True).stderr
    assert "detector: " not in printed
    assert detections.stat().st_mtime_ns == before
    assert [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()] == [1, 2, 3]
    fails_in_one_line(cli("semi", "--resume", "--out", tmp_path, "--annotated", 0.25), ["made with --annotated 0.5"])


def test_another_lostgan_finds_the_detector_again(
    finished: tuple[Path, str], settings: SemiSettings, source: Source, tmp_path: Path
) -> None:
    """Also with another threshold, or without equation 15; nothing is written into the new run's folder."""
    folder = finished[0] / DETECTOR_FOLDER
    first = quiet(replace(settings, detector_folder=folder, ch=4), source, tmp_path)
    surer = quiet(replace(settings, detector_folder=folder, threshold=0.002), source, tmp_path)
    assert first == surer
    unweighted = quiet(replace(settings, detector_folder=folder, detections="as-annotated"), source, tmp_path)
    assert [e.boxes for e in unweighted.examples] == [e.boxes for e in first.examples]
    assert {weight for example in unweighted.examples for weight in example.weights} == {1.0}
    assert list(tmp_path.iterdir()) == []
    for change in ({"annotated": 0.25}, {"seed": 1}, {"detector_steps": 4}):
        with pytest.raises(TrainingError, match=f"made with {next(iter(change))} .* choose another folder"):
            quiet(replace(settings, detector_folder=folder, **change), source, tmp_path)


def test_images_without_annotations_can_be_left_out(settings: SemiSettings, source: Source, tmp_path: Path) -> None:
    """Setting (i) of table 5: the detector is not even trained."""
    alone = quiet(replace(settings, detections="leave-out"), source, tmp_path)
    assert alone.examples == parts(settings, source)[0].examples
    assert list(tmp_path.iterdir()) == []


def test_images_without_any_annotation_are_labelled(
    settings: SemiSettings, source: Source, tiny_detector: None, tmp_path: Path
) -> None:
    heard = Heard()
    folder = tmp_path / "photographs"
    (folder / "deeper").mkdir(parents=True)
    for number, example in enumerate(source.examples[:3]):
        shutil.copy(example.image, folder / ("deeper" if number else "") / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    both = complete(replace(settings, unlabelled=folder, threshold=0.0), source, tmp_path / "run", heard)
    assert both is not None
    assert both.examples[: len(source.examples)] == source.examples
    assert {example.image for example in both.examples[len(source.examples) :]} == set(folder.rglob("*.png"))
    assert not any("AP" in line for line in heard.lines)
    with pytest.raises(DataError, match="no folder with images"):
        quiet(replace(settings, unlabelled=tmp_path / "nothing"), source, tmp_path / "other")


@pytest.mark.parametrize("part", ["", "images"])
def test_held_out_scenes_are_not_labelled_to_train_on(
    part: str, settings: SemiSettings, source: Source, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "held-out", 3, 64, workers=1, held_out=True)
    with pytest.raises(DataError, match="are held out for evaluation"):
        quiet(replace(settings, unlabelled=tmp_path / "held-out" / part), source, tmp_path / "run")


def test_a_run_goes_on_after_its_data_were_moved(
    finished: tuple[Path, str], settings: SemiSettings, scenes: Path, tmp_path: Path
) -> None:
    shutil.copytree(scenes, tmp_path / "moved")
    moved = open_data(tmp_path / "moved")
    folder = finished[0] / DETECTOR_FOLDER
    both = quiet(replace(settings, data=tmp_path / "moved", detector_folder=folder), moved, tmp_path / "run")
    assert len(both.examples) > 10


def test_annotated_objects_weigh_1_and_detected_ones_their_probability(
    finished: tuple[Path, str], settings: SemiSettings, source: Source, scenes: Path
) -> None:
    folder, _ = finished
    dataset = LayoutDataset(quiet(settings, source, folder), 64)
    annotated, _ = parts(settings, source)
    kinds = []
    for item, example in zip((dataset[k] for k in range(len(dataset))), dataset.source.examples, strict=True):
        count = len(example.labels)
        kinds.append(example in annotated.examples)
        expected = torch.ones(count) if kinds[-1] else torch.tensor(example.weights)
        assert torch.equal(item["weights"], nn.functional.pad(expected, (0, dataset.slots - count)))
        assert kinds[-1] or max(example.weights) < 0.9
        assert count <= 12
    assert sum(kinds) == 10 < len(kinds)


def test_the_weights_scale_the_discriminators_objects_alone() -> None:
    """Equation 15: the mean over an image's objects of p_i l_i; the second image has one object, in slot 1. The
    generator's loss, equation 11, has no p_i."""
    slots = torch.tensor([[0, 0], [0, 1], [1, 1]])
    real = Scores(torch.zeros(2, 1), torch.tensor([[0.5], [-1.0], [2.0]]), slots)
    fake = Scores(torch.zeros(2, 1), torch.tensor([[1.0], [3.0], [-0.5]]), slots)
    weights = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    on_real, on_fake = ((0.5 + 0.6 * 2) / 2 + 0) / 2, ((2 + 0.6 * 4) / 2 + 0.8 * 0.5) / 2
    assert float(discriminator_loss(real, fake, weights, 0.0, 1.0)) == pytest.approx(on_real + on_fake)
    assert float(adversarial_loss(fake, 0.0, 1.0)) == pytest.approx(-((1 + 3) / 2 - 0.5) / 2)


def test_a_split_is_even_and_a_function_of_the_seed(settings: SemiSettings, source: Source) -> None:
    first, second = parts(replace(settings, seed=3), source)
    assert abs(len(first.examples) - len(second.examples)) <= 1
    assert set(first.examples) | set(second.examples) == set(source.examples)
    assert parts(replace(settings, seed=3), source) == (first, second)
    assert parts(replace(settings, seed=4), source) != (first, second)
    with pytest.raises(DataError, match=r"--annotated 0\.01 of 21 images is 0"):
        parts(replace(settings, annotated=0.01), source)


def test_a_detector_interrupted_and_resumed_equals_an_uninterrupted_one(
    settings: SemiSettings, source: Source, tiny_detector: None, tmp_path: Path
) -> None:
    quiet(replace(settings, threshold=0.0), source, tmp_path / "whole")
    interrupt = iter([False, True])
    original = detectors.Detector.step

    def step(detector: Any, batch: Any, number: int) -> Any:
        if next(interrupt, False):
            signal.raise_signal(signal.SIGTERM)
        return original(detector, batch, number)

    heard = Heard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors.Detector, "step", step)
        assert complete(replace(settings, threshold=0.0), source, tmp_path / "parts", heard) is None
    assert heard.lines[-1] == "stopped after step 2 of the detector; go on with --resume"
    quiet(replace(settings, threshold=0.0), source, tmp_path / "parts")
    whole, resumed = ((tmp_path / name / DETECTOR_FOLDER / DETECTIONS_FILE).read_bytes() for name in ("whole", "parts"))
    assert whole == resumed


def test_a_detector_of_another_run_is_refused(
    settings: SemiSettings, source: Source, tiny_detector: None, tmp_path: Path
) -> None:
    annotated, _ = parts(settings, source)
    processes = distributed.start()
    _, loop = detector_loop(settings, annotated, tmp_path, {"seed": 0}, processes, SILENT)
    loop.out.mkdir(exist_ok=True)
    loop.save()
    with pytest.raises(TrainingError, match="made with seed 0, not 1"):
        detector_loop(settings, annotated, tmp_path, {"seed": 1}, processes, SILENT)
    with pytest.raises(TrainingError, match="--detector-batch 50 is more than the"):
        detector_loop(replace(settings, detector_batch=50), annotated, tmp_path, {"seed": 0}, processes, SILENT)


def test_detecting_leaves_out_images_that_cannot_be_decoded(
    settings: SemiSettings, source: Source, tmp_path: Path
) -> None:
    _, unlabelled = parts(settings, source)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    examples = (replace(unlabelled.examples[0], image=broken), *unlabelled.examples[1:])
    network = FakeDetector([[0.0, 0.0, 320.0, 320.0]], [1], [0.9])
    processes = distributed.start()
    dataset = LayoutDataset(replace(unlabelled, examples=examples), detectors.SIDE_PX, flip=False)
    found = detect(network, dataset, 0.05, 3, 0, processes, SILENT)
    assert found is not None
    assert sorted(found) == list(range(1, len(examples)))
    assert found[1]["boxes"] == [[0.0, 0.0, 1.0, 1.0]]


def test_detecting_stops_on_a_signal(settings: SemiSettings, source: Source) -> None:
    network = FakeDetector([[0.0, 0.0, 320.0, 320.0]], [1], [0.9])
    network.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    dataset = LayoutDataset(parts(settings, source)[1], detectors.SIDE_PX, flip=False)
    assert detect(network, dataset, 0.05, 2, 0, distributed.start(), SILENT) is None


def test_pseudo_labels_keep_to_the_limits_of_the_data() -> None:
    """The most probable objects up to the slots, none smaller than all annotated ones, none under the threshold."""
    boxes = [[0.0, 0.0, 0.01, 0.01], *([0.05 * k, 0.1, 0.2, 0.4] for k in range(14))]
    scores = [1 - k / 32 for k in range(15)]
    detected = {"labels": [1, *range(1, 15)], "boxes": boxes, "scores": scores}
    image = Example(Path("a"), (), (), ())
    example = pseudo_label(image, detected, 0.5, 0.01, 12)
    assert example.labels == tuple(range(1, 13))
    assert example.weights == tuple(scores[1:13])
    assert example.boxes[1] == pytest.approx((0.05, 0.1, 0.2, 0.4))
    assert pseudo_label(image, detected, 0.9, 0.01, 12).labels == (1, 2, 3)
    assert pseudo_label(image, detected, 0.999, 0.01, 12).labels == ()


def test_a_detector_that_finds_nothing_is_told(
    finished: tuple[Path, str], settings: SemiSettings, source: Source, tmp_path: Path
) -> None:
    path = tmp_path / DETECTOR_FOLDER / DETECTIONS_FILE
    content = json.loads((finished[0] / DETECTOR_FOLDER / DETECTIONS_FILE).read_text())
    content["images"] = {}
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=r"no image got \d objects of probability 0\.002; .* more --detector-steps"):
        quiet(settings, source, tmp_path)
    path.write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        quiet(settings, source, tmp_path)


def test_average_precision_is_cocos() -> None:
    boxes = ((0, 0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1))
    truth = [Example(Path("a"), (1, 2, 3), boxes, (1, 1, 1)), Example(Path("b"), (1,), boxes[:1], (1,))]
    right: list[Detected] = [
        {"labels": list(e.labels), "boxes": [list(b) for b in e.boxes], "scores": [0.9] * len(e.labels)} for e in truth
    ]
    assert average_precision(right, truth).ap == pytest.approx(1)
    loose = [{**each, "boxes": [[x, y, w, 0.6 * h] for x, y, w, h in each["boxes"]]} for each in right]
    scores = average_precision(loose, truth)
    assert (scores.ap50, scores.ap75) == pytest.approx((1, 0))
    assert scores.ap == pytest.approx(0.3)  # of the ten thresholds 0.5, 0.55 and 0.6
    wrong = [{**each, "labels": [4] * len(each["labels"])} for each in right]
    assert average_precision(wrong, truth).ap50 == 0
    nothing: list[Detected] = [{"labels": [], "boxes": [], "scores": []}] * 2
    assert average_precision(nothing, truth).ap == 0
    assert average_precision(right, [replace(e, labels=(), boxes=(), weights=()) for e in truth]).ap == -1


def test_a_detector_starts_from_torchvisions_weights(tmp_path: Path) -> None:
    """A whole Faster R-CNN of 91 classes but for its last layer, or a classifier for the backbone; norms are frozen."""
    heard = Heard()
    torch.manual_seed(1)
    whole = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    body = mobilenet_v3_large(weights=None)
    for network, name, taken in ((whole, "roi_heads.box_head.fc6.weight", True), (body, "", False)):
        path = tmp_path / "weights.pth"
        torch.save(network.state_dict(), path)
        detector = build_detector("mobilenet", 27)
        load_weights(detector, path, heard)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
        assert any(isinstance(module, FrozenBatchNorm2d) for module in detector.modules())
        own, theirs = detector.state_dict(), network.state_dict()
        first = "backbone.body.0.0.weight" if taken else "features.0.0.weight"
        assert torch.equal(own["backbone.body.0.0.weight"], theirs[first])
        if taken:
            assert torch.equal(own[name], theirs[name])
        assert own["roi_heads.box_predictor.cls_score.weight"].shape[0] == 27
    assert len(heard.lines) == 2
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"tensors of the backbone are not in it .*; check --detector"):
        load_weights(build_detector("mobilenet", 27), path, heard)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read as a state dict"):
        load_weights(build_detector("mobilenet", 27), path, heard)


def test_no_gan_takes_memory_while_the_detector_learns(
    settings: SemiSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is made first, for its checks."""
    made: list[weakref.ref[GAN]] = []
    begin = GAN.__init__

    def noted(self: GAN, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(weakref.ref(self))

    def look(*_: object) -> None:
        assert [gan() for gan in made] == [None]

    monkeypatch.setattr(GAN, "__init__", noted)
    monkeypatch.setattr("lostgan_train.training.complete", look)
    train_semi(settings, tmp_path)
    assert made
