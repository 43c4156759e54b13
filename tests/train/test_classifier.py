"""The classifier of crops: real ones are recognised, what shows nothing is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.classifier import (
    SMALL,
    Confusion,
    Lesson,
    crop,
    recognise,
    steps_of,
    train_classifier,
)
from lostgan_train.distributed import Processes
from lostgan_train.synthetic.compose import Scene, draw_scene
from lostgan_train.synthetic.dataset import FIRST_HELD_OUT_SEED

SIDE = 48
EPOCHS = 6
SCENES = Vocabulary.built_in("scenes")


def learnt(crops: Tensor, labels: Tensor, folder: Path, epochs: int) -> torch.nn.Module:
    lesson = Lesson("test", len(labels), lambda: (crops, labels))
    network = train_classifier(lesson, SCENES, folder, Processes(), steps=steps_of(epochs, len(labels), SMALL))
    assert network is not None
    return network


def boxes_of(scene: Scene) -> Tensor:
    """The boxes around the visible part of each object, as shares of the side."""
    corners: Tensor = masks_to_boxes(torch.from_numpy(scene.masks))
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1], 1) / SIDE


def draw_crops(seeds: range) -> tuple[Tensor, Tensor]:
    scenes = [draw_scene(seed, SIDE) for seed in seeds]
    crops = [crop(torch.from_numpy(scene.image)[None], [boxes_of(scene)]) for scene in scenes]
    return torch.cat(crops), torch.tensor([SCENES.id_of(label) for scene in scenes for label in scene.labels])


@pytest.fixture(scope="module")
def crops() -> tuple[Tensor, Tensor]:
    return draw_crops(range(120))


@pytest.fixture(scope="module")
def classifier(crops: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return learnt(*crops, tmp_path_factory.mktemp("classifier"), EPOCHS)


def test_a_crop_is_what_the_box_bounds() -> None:
    """Of a picture painted in one colour for each half, each half's crop has its colour alone."""
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[:, :, 32:] = 200
    boxes = torch.tensor([[0.0, 0.25, 0.5, 0.5], [0.5, 0.0, 0.5, 1.0]])
    left, right = crop(picture, [boxes])[:, :, :, 1:-1]  # the outermost column may be interpolated with its neighbour
    assert (int(left.max()), int(right.min())) == (0, 200)
    scene = draw_scene(3, SIDE)
    x, y, width, height = (boxes_of(scene)[0] * SIDE).round().int().tolist()
    assert scene.masks[0, y : y + height, x : x + width].sum() == scene.masks[0].sum()


def test_real_crops_are_recognised_and_empty_ones_are_not(classifier: torch.nn.Module) -> None:
    held_out, labels = draw_crops(range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 30))
    commonest = float(labels.bincount().max() / len(labels))
    assert Confusion.of(labels, recognise(classifier, held_out), SCENES).accuracy > 0.8
    for empty in (torch.full_like(held_out, 128), held_out.flip(0)):
        assert Confusion.of(labels, recognise(classifier, empty), SCENES).accuracy < 2 * commonest


def test_the_same_crops_teach_the_same(crops: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    few, labels = crops[0][:200], crops[1][:200]
    before = torch.random.get_rng_state()
    first, second = (learnt(few, labels, tmp_path / name, 1) for name in "ab")
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_confusion_counts_by_label() -> None:
    ids = SCENES.id_of
    sky, sun, moon = ids("sky"), ids("sun"), ids("moon")
    confusion = Confusion.of(torch.tensor([sky, sky, sun, sun]), torch.tensor([sky, sky, sun, moon]), SCENES)
    assert confusion.accuracy == 0.75
    assert list(confusion.recalls.items()) == [("sun", 0.5), ("sky", 1.0)]
