"""The discriminators against the original's outputs, and what their scores may depend on."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch

from conftest import Arrays
from lostgan_export.baseline import write_as_the_paper
from lostgan_serve.contract import BACKGROUND_BOX, PAD_BOX
from lostgan_train.networks.discriminator import Discriminator
from lostgan_train.networks.generator import initialize
from official_state import official_state

_NAMES = {  # the original's names of our modules
    64: {"object_block": "block_obj4", "image_score": "l_im"},
    128: {"adapter": "block_obj3", "shared": "block_obj4", "object_block": "block_obj5", "image_score": "l7"},
    256: {"adapter": "block_obj4", "shared": "block_obj5", "object_block": "block_obj6", "image_score": "l8"},
}
_LEAVES = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def official_key(key: str, resolution: int) -> str:
    names = {**_NAMES[resolution], "object_score": "l_obj", "label_embedding": "l_y"}
    key = re.sub(r"trunk\.(\d+)", lambda match: f"block{int(match[1]) + 1}", key)
    for ours, theirs in {**names, "shortcut": "c_sc", **_LEAVES}.items():
        key = key.replace(ours, theirs)
    return f"obD.{key}"


def converted(shapes: dict[str, list[int]], resolution: int) -> Discriminator:
    """A discriminator with an official state; every name and shape must fit."""
    state = official_state(shapes)
    discriminator = Discriminator(resolution, num_labels=184)
    ours = {key: official_key(key, resolution) for key in discriminator.state_dict()}
    assert sorted(ours.values()) == sorted(state)
    discriminator.load_state_dict({key: torch.from_numpy(state[theirs]) for key, theirs in ours.items()})
    return discriminator.eval()


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_every_official_name_has_its_place(resolution: int, official_shapes: dict[str, dict[str, list[int]]]) -> None:
    shapes = official_shapes[f"discriminator_{resolution}"]
    discriminator = Discriminator(resolution, num_labels=184)
    ours = {official_key(key, resolution): list(value.shape) for key, value in discriminator.state_dict().items()}
    assert ours == shapes


def test_golden_parity(official_shapes: dict[str, dict[str, list[int]]], golden: Callable[[str], Arrays]) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("discriminator_128").items()}
    discriminator = converted(official_shapes["discriminator_128"], 128)
    boxes = expected["boxes_xywh"].clone()
    with torch.inference_mode():
        scores = discriminator(expected["image"], expected["labels"], expected["boxes_xywh"])
    torch.testing.assert_close(expected["boxes_xywh"], boxes, rtol=0, atol=0)
    sizes = boxes[scores.slots[:, 0], scores.slots[:, 1], 2:] * 128
    small = (sizes < 64).all(1)
    ordered = torch.cat([scores.objects[~small], scores.objects[small]])
    torch.testing.assert_close(scores.image, expected["score_image"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ordered, expected["score_objects"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_empty_slots_and_the_background_are_not_judged(resolution: int) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(resolution, num_labels=5, ch=2).eval()
    image = torch.rand(2, 3, resolution, resolution) * 2 - 1
    labels = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]])
    boxes = torch.tensor([PAD_BOX]).repeat(2, 4, 1)
    boxes[0, 0], boxes[0, 1] = torch.tensor([0.0, 0, 1, 0.5]), torch.tensor([0.2, 0.2, 0.1, 0.1])
    boxes[1, 0], boxes[1, 1] = torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor(BACKGROUND_BOX)
    with torch.inference_mode():
        scores = discriminator(image, labels, boxes)
        fewer = discriminator(image, labels[:, :2], boxes[:, :2])
        alone = discriminator(image[1:], labels[1:], boxes[1:])
    assert scores.slots.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert (scores.image.shape, scores.objects.shape) == ((2, 1), (3, 1))
    torch.testing.assert_close(fewer.objects, scores.objects)
    torch.testing.assert_close(alone.objects, scores.objects[2:], rtol=1e-4, atol=1e-5)


def test_there_is_none_for_other_sizes() -> None:
    with pytest.raises(ValueError, match="64, 128, 256, 512"):
        Discriminator(100, num_labels=5)


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_the_straightforward_formulation_judges_alike(resolution: int) -> None:
    rng = torch.Generator().manual_seed(0)
    ours = Discriminator(resolution, num_labels=5, ch=2)
    initialize(ours, seed=0)
    plain = copy.deepcopy(ours.eval())
    write_as_the_paper(plain)
    image = torch.randn(2, 3, resolution, resolution, generator=rng)
    labels, boxes = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[[0.1, 0.1, 0.2, 0.3], [0, 0, 1, 1.0]]] * 2)
    for one, other in zip(ours(image, labels, boxes), plain(image, labels, boxes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
