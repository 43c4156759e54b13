"""The discriminators against the original's outputs, what their scores may depend on, and their checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Arrays
from lostgan_serve.contract import BACKGROUND_BOX, PAD_BOX
from lostgan_serve.errors import CheckpointError, InputError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.blocks import DiscriminatorBlock
from lostgan_train.networks.checkpoint import (
    DiscriminatorCheckpoint,
    load_checkpoint,
    load_discriminator,
    random_checkpoint,
    save_checkpoint,
    save_discriminator,
)
from lostgan_train.networks.discriminator import Discriminator, DiscriminatorConfig
from lostgan_train.networks.layers import initialize
from lostgan_train.networks.reference import as_reference
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
    discriminator = Discriminator(DiscriminatorConfig(resolution, num_labels=184))
    ours = {key: official_key(key, resolution) for key in discriminator.state_dict()}
    assert sorted(ours.values()) == sorted(state)
    discriminator.load_state_dict({key: torch.from_numpy(state[theirs]) for key, theirs in ours.items()})
    return discriminator.eval()


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_every_official_name_has_its_place(resolution: int, official_shapes: dict[str, dict[str, list[int]]]) -> None:
    shapes = official_shapes[f"discriminator_{resolution}"]
    discriminator = Discriminator(DiscriminatorConfig(resolution, num_labels=184))
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
    discriminator = Discriminator(DiscriminatorConfig(resolution, num_labels=5, ch=2)).eval()
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
        DiscriminatorConfig(100, num_labels=5)
    with pytest.raises(ValueError, match="must be positive"):
        DiscriminatorConfig(64, num_labels=5, ch=0)


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_the_reference_judges_alike(resolution: int) -> None:
    rng = torch.Generator().manual_seed(0)
    ours = Discriminator(DiscriminatorConfig(resolution, num_labels=5, ch=2))
    initialize(ours, seed=0)
    reference = as_reference(ours.eval())
    assert DiscriminatorBlock not in {type(module) for module in reference.modules()}
    image = torch.randn(2, 3, resolution, resolution, generator=rng)
    labels, boxes = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[[0.1, 0.1, 0.2, 0.3], [0, 0, 1, 1.0]]] * 2)
    for one, other in zip(ours(image, labels, boxes), reference(image, labels, boxes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def a_checkpoint() -> DiscriminatorCheckpoint:
    vocabulary = Vocabulary.built_in("scenes")
    discriminator = Discriminator(DiscriminatorConfig(64, len(vocabulary), ch=2))
    initialize(discriminator, seed=0)
    return DiscriminatorCheckpoint(discriminator, vocabulary)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 1e-3)])
def test_a_checkpoint_carries_everything(half: bool, tolerance: float, tmp_path: Path) -> None:
    saved = a_checkpoint()
    save_discriminator(tmp_path / "a", saved, half=half)
    loaded = load_discriminator(tmp_path / "a")
    assert loaded.discriminator.config == saved.discriminator.config
    assert loaded.vocabulary == saved.vocabulary
    assert not loaded.discriminator.training
    theirs = loaded.discriminator.state_dict()
    assert list(theirs) == list(saved.discriminator.state_dict())
    for key, value in saved.discriminator.state_dict().items():
        torch.testing.assert_close(theirs[key], value, rtol=tolerance, atol=tolerance / 1000)


def test_broken_checkpoints_are_named(tmp_path: Path) -> None:
    save_discriminator(tmp_path / "whole", a_checkpoint())
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1000])
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "damaged").write_bytes(whole.replace(b'resolution\\": 64', b'resolution\\": 65'))
    (tmp_path / "other").write_bytes(whole.replace(b'ch\\": 2', b'ch\\": 3'))
    words = {
        "none": "no such checkpoint; `lostgan-serve train` makes one",
        "cut": "truncated",
        "text": "not a safetensors file",
        "damaged": "metadata is damaged .no discriminator of 65 px",
        "other": "do not fit its own config",
    }
    for name, word in words.items():
        kind = InputError if name == "none" else CheckpointError
        with pytest.raises(kind, match=rf"{name}: .*{word}") as caught:
            load_discriminator(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    checkpoint = a_checkpoint()
    with torch.no_grad():
        checkpoint.discriminator.image_score.bias[0] = float("nan")
    save_discriminator(tmp_path / "nan", checkpoint)
    with pytest.raises(CheckpointError, match="not finite"):
        load_discriminator(tmp_path / "nan")


def test_the_two_kinds_of_checkpoint_are_not_mixed_up(tmp_path: Path) -> None:
    save_discriminator(tmp_path / "discriminator", a_checkpoint())
    save_checkpoint(tmp_path / "generator", random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=1))
    with pytest.raises(CheckpointError, match=r"not one of lostgan-serve's discriminators .*generator 1"):
        load_discriminator(tmp_path / "generator")
    with pytest.raises(CheckpointError, match=r"not one of lostgan-serve's generators .*discriminator 1"):
        load_checkpoint(tmp_path / "discriminator")
