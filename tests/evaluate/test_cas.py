"""Classification Accuracy Score: learnt from generated objects, asked about real ones."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lostgan_evaluate.crops import read_crops
from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.images import Reading, Region
from lostgan_evaluate.metrics import cas
from lostgan_evaluate.protocols import CropClassifier, protocol_named
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Sample, Subject, Tools
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.errors import DataError
from lostgan_serve.progress import SILENT
from lostgan_train.classifier import Classifier
from lostgan_train.data import Batch, Source

STEPS = 30


def no_extractor(name: str) -> None:
    raise AssertionError(f"asked for {name}")


def tools(out: Path) -> Tools:
    return Tools(out, out, FeatureStore(out, no_extractor), WeightFiles(), (), SILENT)  # type: ignore[arg-type]


def subject(source: Source, shown: Callable[[int], int] = lambda place: place) -> Subject:
    """A perfect generator's images: the real ones. shown: the place of the image that is shown for that of a layout."""
    count = len(source.examples)
    samples = tuple(Sample(source.examples[shown(place) % count].image, place) for place in range(count))
    return Subject("real", samples, source.examples, protocol_named("scenes-64"), source, training=source)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one layer and few steps."""
    layers = (nn.AvgPool2d(4), nn.Flatten())
    monkeypatch.setattr(cas, "cifar_resnet", lambda _name, labels: nn.Sequential(*layers, nn.Linear(192, labels)))
    monkeypatch.setitem(cas.STEPS, "resnet18", STEPS)


def measured(of: Subject, out: Path) -> Score:
    (score,) = cas.METRIC.measure(of, tools(out)).scores
    return score


def test_images_that_show_other_layouts_teach_nothing(source: Source, quick: None, tmp_path: Path) -> None:
    right = measured(subject(source), tmp_path)
    wrong = measured(subject(source, lambda place: place + 5), tmp_path)
    assert right.name == "cas_resnet18"  # ResNet-101's alone has the paper's name
    assert right.value == right.real == wrong.real  # the same crops teach the same
    assert wrong.value < right.value - 20
    crops = sum(len(example.labels) for example in source.examples)
    assert right.facts["crops"] == right.facts["tested_crops"] == right.facts["training_crops"] == crops
    assert right.facts["mean_recall"] == pytest.approx(sum(right.by_label.values()) / len(right.by_label))


def test_an_interrupted_one_goes_on(
    source: Source, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = replace(subject(source), training=None)
    whole = measured(of, tmp_path / "whole")
    assert whole.real is None
    made: list[int] = []
    step = Classifier.step

    def counting(classifier: Classifier, batch: Batch, number: int) -> dict[str, float]:
        made.append(number)
        if number == 20:
            signal.raise_signal(signal.SIGTERM)
        return step(classifier, batch, number)

    monkeypatch.setattr(Classifier, "step", counting)
    with pytest.raises(KeyboardInterrupt):
        measured(of, tmp_path / "parts")
    assert measured(of, tmp_path / "parts") == whole
    assert measured(of, tmp_path / "parts") == whole
    assert made == list(range(STEPS))


def test_another_seed_or_other_crops_are_learnt_anew(
    source: Source, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cas.STEPS, "resnet18", 1)
    measured(replace(subject(source), training=None), tmp_path)
    cas.METRIC.measure(replace(subject(source), training=None), replace(tools(tmp_path), seed=1))
    measured(replace(subject(source, lambda place: place + 1), training=None), tmp_path)
    assert len(list((tmp_path / "cas").iterdir())) == 3


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_173_962), ("resnet101", 42_512_970)])
def test_the_networks_are_those_of_cifar(name: CropClassifier, parameters: int) -> None:
    """The numbers of weights of the usual CIFAR-10 networks; the last maps are an eighth of the crop's side."""
    network = cas.cifar_resnet(name, 10).eval()
    assert sum(each.numel() for each in network.parameters()) == parameters
    sides = []
    network.get_submodule("layer4").register_forward_hook(lambda _network, _crops, maps: sides.append(maps.shape[-1]))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sides == [4]


def test_crops_are_mirrored_and_shifted_each_on_its_own() -> None:
    crop = torch.rand(3, 8, 8)
    padded = torch.nn.functional.pad(crop, [4] * 4)
    possible: dict[tuple[int, int, bool], Tensor] = {}
    for top in range(9):
        for left in range(9):
            part = padded[:, top : top + 8, left : left + 8]
            possible |= {(top, left, flip): part.flip(2) if flip else part for flip in (False, True)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        changed = cas.mirrored_and_shifted(crop.repeat(200, 1, 1, 1))
    seen = {name for each in changed for name, part in possible.items() if torch.equal(each, part)}
    assert all(any(torch.equal(each, part) for part in possible.values()) for each in changed)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {False, True}


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        read_crops([(Region(broken, None, (0.0, 0.0, 1.0, 1.0)), 1)], Reading(64), SILENT)
