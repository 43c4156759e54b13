"""Objects that a classifier of real ones recognises: real ones are, noise is not, and the worst are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lostgan_evaluate.metrics.recognition import METRIC, SHEET
from lostgan_evaluate.subject import Sample, Subject
from lostgan_train.data import Source, open_data
from lostgan_train.synthetic.dataset import write_dataset
from measuring import perfect, tools_in


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 10, 64, workers=1, held_out=True)
    return folder


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, 100, 64, workers=1)
    return open_data(folder)


def with_noise(subject: Subject, out: Path) -> Subject:
    out.mkdir()
    samples = []
    for number, sample in enumerate(subject.samples):
        file = out / sample.file.name
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
        samples.append(Sample(file, sample.place))
    return replace(subject, samples=tuple(samples))


def test_real_objects_are_recognised_and_noise_is_not(held_out: Path, training: Source, tmp_path: Path) -> None:
    subject = replace(perfect(held_out, tmp_path / "images"), training=training)
    tools = tools_in(tmp_path / "out")
    (same,) = METRIC.measure(subject, tools).scores
    assert same.value == same.real
    assert same.value > 0.6
    assert same.facts["crops"] == sum(len(example.labels) for example in subject.real)
    states = {path: path.stat().st_mtime_ns for path in tools.networks.rglob("*.pt")}
    assert states
    found = METRIC.measure(with_noise(subject, tmp_path / "noise"), tools)
    (noise,) = found.scores
    assert noise.value < 0.4 < float(noise.real or 0)
    assert {path: path.stat().st_mtime_ns for path in tools.networks.rglob("*.pt")} == states  # learnt once
    assert found.sheets == (SHEET,)
    sheet = Image.open(tools.out / SHEET)
    assert sheet.width > 8 * 128
    assert np.asarray(sheet).std() > 20


def test_it_needs_training_images(held_out: Path, tmp_path: Path) -> None:
    subject = perfect(held_out, tmp_path / "images")
    assert "--training-data" in str(METRIC.why_not(subject, tools_in(tmp_path)))
