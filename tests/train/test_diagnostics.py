"""Diagnostics of training: each figure sees its fault, and only that."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lostgan_serve.contract import Array
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import LayoutDataset, Source
from lostgan_train.diagnostics import Diagnostics, LookMeter, axes_share, owners_by_box, spectrum
from lostgan_train.distributed import Processes
from lostgan_train.networks.checkpoint import load_checkpoint
from lostgan_train.networks.generator import GeneratorOutput
from lostgan_train.synthetic.compose import draw_scene
from training import Heard

SIDE = 128
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def noise(period_px: float | None = None, diagonal: bool = False) -> Array:
    """A picture of grey noise on a slope of light, with a wave of so many px."""
    y, x = np.mgrid[:SIDE, :SIDE]
    grey = 100 + 0.3 * x + 0.2 * y + np.random.default_rng(0).normal(0, 4, (SIDE, SIDE))
    if period_px:
        grey = grey + 10 * np.sin(2 * np.pi * ((x + y) / 2**0.5 if diagonal else x) / period_px)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def share(image: Array) -> float:
    return axes_share(spectrum(image, EVERYWHERE))


def test_a_grid_is_seen_at_its_periods_and_along_the_axes_alone() -> None:
    assert share(noise()) < 0.05
    for period in (3, 4, 8):
        assert share(noise(period)) > 0.7, period
        assert share(noise(period).transpose(1, 0, 2)) > 0.7, period
    for other in (noise(16), noise(2), noise(5.7, diagonal=True)):
        assert share(other) < 0.2


def test_only_windows_inside_the_region_count() -> None:
    image = np.where(EVERYWHERE[..., None] & (np.arange(SIDE) < 64)[None, :, None], noise(4), noise())
    left, right = np.zeros((2, SIDE, SIDE), bool)
    left[:, :64], right[:, 64:] = True, True
    assert axes_share(spectrum(image, left)) > 0.7
    assert axes_share(spectrum(image, right)) < 0.05
    assert np.isnan(axes_share(spectrum(image, np.zeros((SIDE, SIDE), bool))))
    assert np.isnan(axes_share(spectrum(image[:16, :16], EVERYWHERE[:16, :16])))


@pytest.mark.slow
def test_drawn_scenes_have_no_grid_and_an_eighth_of_dark_skies() -> None:
    meter = LookMeter()
    for seed in range(120):
        scene = draw_scene(seed, SIDE)
        grass, sky = (scene.masks[[own == label for own in scene.labels]].any(0)[None] for label in ("grass", "sky"))
        meter.add(scene.image[None], grass, sky)
    look = meter.look()
    assert look.grid < 0.08
    assert 0.05 < look.dark_sky < 0.25
    assert 40 < look.sky_spread < 65


def test_skies_of_one_colour_have_no_spread() -> None:
    meter = LookMeter()
    for _ in range(3):
        meter.add(np.full((1, SIDE, SIDE, 3), 60, np.uint8), EVERYWHERE[None], EVERYWHERE[None])
    assert (meter.look().dark_sky, meter.look().sky_spread) == (1, 0)


def test_smaller_boxes_own_what_larger_ones_cover() -> None:
    owners = owners_by_box(torch.tensor([[0.5, 0.5, 0.25, 0.25], [0.0, 0.0, 1.0, 0.75]]), 8)
    assert owners[5, 5] == 0
    assert owners[0, 0] == 1
    assert owners[7, 0] == -1


@pytest.fixture(scope="module")
def diagnostics(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Diagnostics:
    folder = tmp_path_factory.mktemp("diagnostics")
    return Diagnostics(LayoutDataset(source, SIDE, flip=False), folder, 0, Processes())


@pytest.mark.slow
def test_an_untrained_generator_is_far_from_the_real_pictures(diagnostics: Diagnostics, tiny_checkpoint: Path) -> None:
    figures = diagnostics(load_checkpoint(tiny_checkpoint).generator)
    assert figures.recognised < 0.3 < diagnostics.real.recognised
    assert figures.look.grid > 1.5 * diagnostics.real.look.grid
    assert figures == diagnostics(load_checkpoint(tiny_checkpoint).generator)
    line = figures.beside(diagnostics.real)
    assert line.startswith("dark skies") or line.startswith("grid")
    assert "of the rarest labels" in line
    assert line.endswith(f"two styles differ by {figures.styles:.1f}")
    assert 5 < figures.styles < 128
    assert "styles" not in diagnostics.real.measured()


@pytest.mark.slow
def test_a_generator_that_ignores_styles_is_told(diagnostics: Diagnostics, tiny_checkpoint: Path) -> None:
    generator = load_checkpoint(tiny_checkpoint).generator
    forward = generator.forward

    def deaf(labels: Tensor, boxes: Tensor, z_obj: Tensor, z_img: Tensor) -> GeneratorOutput:
        return forward(labels, boxes, torch.zeros_like(z_obj), torch.zeros_like(z_img))

    generator.forward = deaf  # type: ignore[method-assign, assignment]
    assert diagnostics(generator).styles == 0


class Asked(LayoutDataset):
    """Counts how often an item is asked for. stop_at: the number of the one at which SIGTERM comes."""

    asked, stop_at = 0, 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.asked += 1
        if self.asked == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(index)


def test_the_classifier_is_found_again(source: Source, tmp_path: Path) -> None:
    heard, dataset = Heard(), Asked(source, SIDE, flip=False)
    first = Diagnostics(dataset, tmp_path, 0, Processes(), heard)
    learnt = heard.counts["learning labels"]
    assert learnt[0] == learnt[1] > 0
    assert heard.counts.pop("cutting crops")[:2] == (len(dataset), len(dataset))
    heard.counts.clear()
    dataset.asked = 0
    again = Diagnostics(dataset, tmp_path, 0, Processes(), heard)
    assert heard.counts == {}  # nothing is learnt again
    assert dataset.asked == len(dataset)  # for the real pictures' figures alone
    assert first.real == again.real


@pytest.mark.parametrize("change", ["labels", "objects", "images"])
def test_other_data_are_learnt_anew(change: str, source: Source, tmp_path: Path) -> None:
    """A run's folder may hold the classifier of data that it was begun with."""
    names, last = source.vocabulary.labels, len(source.vocabulary) - 1
    moved = tuple(replace(each, labels=tuple(label % last + 1 for label in each.labels)) for each in source.examples)
    other = {
        "labels": replace(source, vocabulary=Vocabulary("own", (*names, "comet"), source.vocabulary.slots)),
        "objects": replace(source, examples=moved),
        "images": replace(source, examples=source.examples[:12]),
    }[change]
    fresh = Diagnostics(LayoutDataset(other, 64, flip=False), tmp_path / "fresh", 0, Processes())
    Diagnostics(LayoutDataset(source, 64, flip=False), tmp_path / "used", 0, Processes())
    used = Diagnostics(LayoutDataset(other, 64, flip=False), tmp_path / "used", 0, Processes())
    for one, same in zip(fresh.classifier.parameters(), used.classifier.parameters(), strict=True):
        assert torch.equal(one, same)


def test_a_signal_stops_the_reading_of_pictures(source: Source, tmp_path: Path) -> None:
    dataset = Asked(source, SIDE, flip=False)
    dataset.stop_at = 3
    assert not Diagnostics(dataset, tmp_path, 0, Processes()).ready
    assert dataset.asked == 3
