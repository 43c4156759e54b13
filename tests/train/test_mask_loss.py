"""Training on true masks: who owns a pixel, and a loss that teaches it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Cli, fails_in_one_line
from data_files import PETS, box_of, image_of, pets, write_coco
from lostgan_serve.errors import DataError
from lostgan_train.data import LayoutDataset, Source, open_data
from lostgan_train.data.masks import NOBODY, Owners, read_owners
from lostgan_train.losses import mask_loss
from lostgan_train.settings import Schedule
from lostgan_train.synthetic.compose import draw_scene
from training import OPTIONS, losses, training

DOG, CAT = 30, 4


def square(left: int, top: int, side: int) -> list[list[int]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def overlapping(folder: Path) -> Source:
    """A large dog, a small cat on it, and another dog whose mask is not known."""
    annotations = [
        box_of(1, 0, DOG, [0, 0, 60, 60], segmentation=square(0, 0, 60)),
        box_of(2, 0, CAT, [20, 20, 20, 20], segmentation=square(20, 20, 20)),
        box_of(3, 0, DOG, [50, 50, 40, 40], segmentation=[]),
    ]
    return open_data(write_coco(folder, [image_of(0)], annotations, PETS))


def test_the_smallest_mask_owns_a_pixel_and_unknown_boxes_are_nobodys(tmp_path: Path) -> None:
    source = overlapping(tmp_path)
    (example,) = source.examples
    owners = read_owners(source, tmp_path, None, 50).of(example)
    assert owners.dtype == np.int16
    expected = np.full((50, 50), NOBODY)
    expected[:30, :30] = 0
    expected[25:45, 25:45] = NOBODY
    expected[10:20, 10:20] = 1
    np.testing.assert_array_equal(owners, expected)


def test_an_item_is_mirrored_with_its_owners(tmp_path: Path) -> None:
    source = overlapping(tmp_path)
    owners = read_owners(source, tmp_path, None, 50)
    seen = set()
    for seed in range(8):
        item = LayoutDataset(source, 64, seed=seed, owners=owners)[0]
        mirrored = bool(item["boxes"][0, 0] > 0.3)
        found = item["owners"].numpy()
        np.testing.assert_array_equal(found[:, ::-1] if mirrored else found, owners.of(source.examples[0]))
        seen.add(mirrored)
    assert seen == {False, True}
    assert "owners" not in LayoutDataset(source, 64)[0]


def test_drawn_scenes_say_who_owns_each_pixel(source: Source) -> None:
    """As they were drawn: what is in front owns it."""
    owners = read_owners(source, Path(source.summary.folder), None, 64)
    example = source.examples[0]
    scene = draw_scene(int(example.image.stem), 64)
    found = owners.of(example)
    for slot, mask in enumerate(scene.masks):
        np.testing.assert_array_equal(found == slot, mask)


def test_the_loss_is_that_of_the_objects_and_pixels_that_are_known() -> None:
    masks = torch.full((1, 3, 2, 2), 0.25)
    labels, owners = torch.tensor([[5, 7, 0]]), torch.tensor([[[0, 1], [-1, -1]]], dtype=torch.int16)
    expected = 1 - 0.25 / 1.25  # a quarter of its own pixel, and a quarter of the other's
    assert float(mask_loss(masks, labels, owners)) == pytest.approx(expected)
    masks[:, 2] = 0.9  # an empty slot
    masks[:, :2, 1] = 0.9  # nobody's pixels
    assert float(mask_loss(masks, labels, owners)) == pytest.approx(expected)
    hidden = torch.tensor([[5, 7, 3]])  # one that owns nothing
    assert float(mask_loss(masks, hidden, owners)) == pytest.approx(expected)
    right = torch.stack([owners[0] == slot for slot in (0, 1, 9)])[None].float().requires_grad_()
    loss = mask_loss(right, labels, owners)
    assert float(loss.detach()) == 0
    loss.backward()
    assert right.grad is not None
    assert torch.isfinite(right.grad).all()
    assert float(mask_loss(masks, labels, torch.full_like(owners, -1))) == 0


@pytest.mark.slow
def test_masks_learn_from_true_ones(source: Source, tmp_path: Path) -> None:
    weight = Schedule(((0, 5.0),))
    training(source, tmp_path, variant="v2-128", steps=30, mask_weight=weight, learning_rate=1e-2).run()
    course = [row["masks"] for row in losses(tmp_path)]
    assert np.mean(course[-5:]) < 0.9 * np.mean(course[:3])


def test_without_true_masks_it_is_refused_in_one_line(tmp_path: Path, cli: Cli) -> None:
    source = pets(tmp_path / "boxes")
    text = (source / "annotations.json").read_text().replace('"segmentation"', '"outline"')
    (source / "annotations.json").write_text(text)
    options = (*OPTIONS, "--data", source, "--out", tmp_path / "run", "--mask-weight", 1)
    fails_in_one_line(cli("train", *options), [str(source), "no masks", "only boxes"])
    assert not (tmp_path / "run").exists()


def test_owners_of_nothing_known_are_nobody(source: Source) -> None:
    example = replace(source.examples[0], boxes=((0.0, 0.0, 1.0, 1.0),), labels=source.examples[0].labels[:1])
    assert (Owners({}, 8).of(example) == NOBODY).all()
    with pytest.raises(DataError, match="no masks"):
        read_owners(replace(source, examples=(example,)), Path(source.summary.folder), None, 8)
