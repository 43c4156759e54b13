"""The look of scenes: real ones look like themselves; a grid, a night and skies of one colour are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import pets
from lostgan_evaluate.metrics.look import METRIC
from lostgan_evaluate.scores import Score
from lostgan_serve.contract import Array
from lostgan_train.data import open_data
from lostgan_train.synthetic.dataset import write_dataset
from measuring import perfect, tools_in

SCENES, SIDE_PX = 32, 128
GRID = 40 * np.sin(2 * np.pi * np.arange(SIDE_PX) / 4 + 1)[None, :, None]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, SCENES, SIDE_PX, workers=1, held_out=True)
    return folder


def look(data: Path, out: Path, change: Callable[[Array], Array] = lambda image: image) -> dict[str, Score]:
    """Scores of the real images, changed."""
    subject = perfect(data, out / "images", side_px=SIDE_PX)
    for sample in subject.samples:
        image = change(np.asarray(Image.open(sample.file).convert("RGB"), np.float64))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(sample.file)
    scores = {score.name: score for score in METRIC.measure(subject, tools_in(out / "out")).scores}
    assert list(scores) == ["grid", "dark_sky", "sky_spread"]
    assert {score.better for score in scores.values()} == {"nearer"}
    return scores


def test_real_scenes_look_as_they_do(held_out: Path, tmp_path: Path) -> None:
    for score in look(held_out, tmp_path).values():
        assert score.value == score.real
        assert score.facts["images"] == score.facts["real_images"] > SCENES / 2  # some have too many objects


def test_a_grid_on_grass_is_told(held_out: Path, tmp_path: Path) -> None:
    grid = look(held_out, tmp_path, lambda image: image + GRID)["grid"]
    assert grid.value > 3 * (grid.real or 1)


def test_nights_and_skies_of_one_colour_are_told(held_out: Path, tmp_path: Path) -> None:
    night = look(held_out, tmp_path / "night", lambda image: image / 8)
    assert night["dark_sky"].value == 1
    assert 0 < float(night["dark_sky"].real or 0) < 0.5
    flat = look(held_out, tmp_path / "flat", lambda image: np.full_like(image, 100))
    assert flat["sky_spread"].value == 0
    assert (flat["sky_spread"].real or 0) > 20


def test_what_cannot_be_looked_at_is_told(tmp_path: Path, held_out: Path) -> None:
    source = open_data(pets(tmp_path / "pets"))
    subject = perfect(held_out, tmp_path / "images")
    tools = tools_in(tmp_path)
    assert METRIC.why_not(subject, tools) is None
    assert "neither grass nor sky" in str(METRIC.why_not(replace(subject, source=source), tools))
    unknown = tuple(replace(sample, place=None) for sample in subject.samples)
    assert "give --data" in str(METRIC.why_not(replace(subject, samples=unknown), tools))
