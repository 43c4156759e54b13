"""Nearest training images, by features and by layout."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lostgan_evaluate.metrics import neighbours
from lostgan_serve.contract import Array
from lostgan_train.data import Example, open_data
from lostgan_train.synthetic.dataset import write_dataset
from measuring import perfect, tools_in

SIDE = neighbours.MAP_SIDE_PX


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 6, 64, workers=1, held_out=True)
    return folder


def test_the_nearest_by_cosine_are_those_that_a_loop_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    features, others = (torch.randn(count, 10, generator=generator) for count in (7, 30))
    others[12] = 5 * features[3]
    found, places = neighbours.nearest_cosines(features, others)
    cosines = torch.stack([torch.cosine_similarity(row[None], others) for row in features])
    assert found == pytest.approx(cosines.max(1).values)
    assert torch.equal(places, cosines.argmax(1))
    assert int(places[3]) == 12
    assert float(found[3]) == pytest.approx(1)


def halves(left: int, right: int) -> Array:
    return np.repeat([[left] * (SIDE // 2) + [right] * (SIDE // 2)], SIDE, 0)


@pytest.mark.parametrize(
    ("query", "target", "expected"),
    [
        (halves(1, 2), halves(1, 2), 1.0),
        (halves(1, 2), halves(3, 4), 0.0),
        (halves(1, 2), halves(2, 1), 0.5),  # the same shares, at other places
        (halves(1, 2), halves(1, 3), 0.5),  # half the shares, half the places
        (halves(1, 0), halves(1, 0), 1.0),
        (halves(1, 0), halves(2, 0), 0.25),  # what nobody owns is a share, and no overlap
    ],
)
def test_consistency_by_the_letter(query: Array, target: Array, expected: float) -> None:
    others = np.stack([target, query])
    assert neighbours.global_scene_consistency(query, others, 5) == pytest.approx([expected, 1])


def test_smaller_boxes_lie_over_larger_ones() -> None:
    example = Example(Path("a.png"), (3, 1), ((0.25, 0.25, 0.5, 0.5), (0.0, 0.0, 1.0, 0.75)), (1.0, 1.0))
    labels = neighbours.label_map(example)
    assert labels[SIDE // 2, SIDE // 2] == 3
    assert labels[0, 0] == 1
    assert labels[-1, 0] == 0
    assert (labels == 3).sum() == (SIDE // 2) ** 2


def test_copies_of_training_images_are_found_out(held_out: Path, scenes: Path, tmp_path: Path) -> None:
    """The generated images are copies of training images: nearer to them than any real one is."""
    training = open_data(scenes)
    subject = perfect(held_out, tmp_path / "samples")
    subject = replace(subject, training=training, training_data=scenes)
    for sample, example in zip(subject.samples, training.examples, strict=False):
        shutil.copy(example.image, sample.file)
    measured = neighbours.METRIC.measure(subject, tools_in(tmp_path))
    (score,) = measured.scores
    assert score.name == "nearest_cosine_efficientnet_lite0"
    assert score.value == pytest.approx(1)
    assert score.real is not None
    assert score.real < 0.9999
    assert score.facts["share_nearer_than_real"] == 1
    assert score.facts["training_images"] == len(training.examples)
    with Image.open(tmp_path / measured.sheets[0]) as sheet:
        assert sheet.height > 5 * 160


def test_real_images_are_as_near_as_real_images(held_out: Path, scenes: Path, tmp_path: Path) -> None:
    subject = perfect(held_out, tmp_path / "samples")
    subject = replace(subject, training=open_data(scenes), training_data=scenes)
    (score,) = neighbours.METRIC.measure(subject, tools_in(tmp_path)).scores
    assert score.value == pytest.approx(score.real)
    assert score.facts["share_nearer_than_real"] == 0


def test_of_many_training_images_as_many_as_fit_are_searched(
    held_out: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MOST_NUMBERS", 5 * 6)  # five images of six features
    subject = perfect(held_out, tmp_path / "samples")
    subject = replace(subject, training=open_data(scenes), training_data=scenes)
    (score,) = neighbours.METRIC.measure(subject, tools_in(tmp_path)).scores
    assert score.facts["training_images"] == 5
    assert score.facts["of_training_images"] == len(open_data(scenes).examples)


def test_without_training_images_there_is_a_reason(held_out: Path, tmp_path: Path) -> None:
    subject = perfect(held_out, tmp_path / "samples")
    assert "--training-data" in (neighbours.METRIC.why_not(subject, tools_in(tmp_path)) or "")
