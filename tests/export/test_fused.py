"""The graph for inference, and the formulation of the paper, against the generator itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import Arrays
from lostgan_export.folding import fold_spectral_norms
from lostgan_export.fused import FusedGenerator, fuse
from lostgan_serve.contract import BACKGROUND_BOX, INPUT_NAMES, MAX_SLOTS, NO_OBJECT, PAD_BOX, Array, empty_batch
from lostgan_serve.manifest import Precision
from lostgan_train.networks.blocks import ResBlock
from lostgan_train.networks.generator import WIDTHS, Generator, GeneratorConfig
from lostgan_train.networks.importer import convert_official
from lostgan_train.networks.layers import initialize, resize
from lostgan_train.networks.masks import MaskHead, PyramidPool
from lostgan_train.networks.norms import ISLANorm
from lostgan_train.networks.reference import as_reference
from official_state import official_state

LABELS = 9

KINDS: dict[str, dict[str, Any]] = {
    **{variant: {"variant": variant} for variant in WIDTHS},
    "boxes for masks": {"variant": "v2-128", "layout_to_mask": False},
    "no refinement": {"variant": "v2-128", "mask_refinement": False},
    "spade": {"variant": "v2-128", "norm": "spade"},
    "spade v1": {"variant": "v1-64", "norm": "spade", "layout_to_mask": False},
    "pooled v1": {"variant": "v1-64", "max_pool_masks": True},
    "pooled": {"variant": "v2-128", "max_pool_masks": True},
    "context": {"variant": "v2-128", "label_context": True},
    "noise": {"variant": "v2-256", "noise": True},
}
"""The variants, the paper's ablations of them, and the options that are not the paper's."""


@cache
def generator(kind: str) -> Generator:
    """A small generator in which every folded constant matters: batch norms, biases and alphas are all drawn."""
    net = Generator(GeneratorConfig(**KINDS[kind], num_labels=LABELS, ch=2, mask_classes=LABELS + 3))
    initialize(net, seed=1)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.5, generator=rng)
                module.running_var.uniform_(0.3, 3, generator=rng)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=rng)
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                bias.normal_(0, 0.3, generator=rng)
        if net.label_context is not None:
            net.label_context[1:].normal_(0, 1, generator=rng)  # label 0 is no object
        for alpha in net.alphas:
            alpha.normal_(0, 2, generator=rng)
        for name, parameter in net.named_parameters():
            if name.endswith("noise_scale"):
                parameter.normal_(0, 1, generator=rng)
    return net.eval()


@cache
def fused(kind: str, mask_stages: int | None = None) -> FusedGenerator:
    return fuse(generator(kind), mask_stages=mask_stages)


def inputs(seed: int, batch: int, slots: int, objects: int) -> dict[str, Tensor]:
    """Random layouts with `objects` objects in their first slots."""
    rng = np.random.default_rng(seed)
    tensors = empty_batch(batch, slots)
    used = slice(0, objects)
    tensors["labels"][:, used] = rng.integers(0, LABELS, (batch, objects))
    size = rng.uniform(0.02, 1, (batch, objects, 2))
    tensors["boxes"][:, used] = np.concatenate([rng.uniform(0, 1, size.shape) * (1 - size), size], -1)
    tensors["z_obj"][:, used] = rng.standard_normal((batch, objects, 128))
    tensors["z_img"][:] = rng.standard_normal((batch, 128))
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def run(net: nn.Module, tensors: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return net(*(tensors[name] for name in INPUT_NAMES), **options)


def levels(image: Tensor) -> Array:
    rounded: Array = np.rint((image.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.int16)
    return rounded


def assert_equal_but_for_rounding(kind: str, tensors: dict[str, Tensor], mask_stages: int | None = None) -> None:
    """Few values may fall on the other side of a half, none further."""
    net = generator(kind)
    expected = run(net, tensors, mask_stages=mask_stages)
    image, owner, masks = (output.numpy().astype(np.int16) for output in run(fused(kind, mask_stages), tensors))
    soft = resize(expected.mask_final, net.config.resolution).numpy() * 255
    assert image.std() > 5  # or there would be nothing to compare
    for ours, theirs in ((image, levels(expected.image)), (masks, np.rint(soft))):
        difference = np.abs(ours - theirs)
        assert difference.max() <= 1
        assert difference.mean() < 0.002
    none = owner == NO_OBJECT
    assert soft.max(1)[none].max(initial=0) < 0.501
    owned = np.take_along_axis(soft, np.where(none, 0, owner)[:, None], 1)[:, 0]
    assert (owned >= soft.max(1) - 0.01)[~none].all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_fused_equals_unfused(kind: str, data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 9))
    objects = data.draw(st.integers(1, slots))
    tensors = inputs(data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 3)), slots, objects)
    assert_equal_but_for_rounding(kind, tensors)


@pytest.mark.parametrize("kind", ["v2-128", "spade"])
@pytest.mark.parametrize("mask_stages", range(5))
def test_fused_refines_masks_in_the_same_stages(kind: str, mask_stages: int) -> None:
    tensors = inputs(12, 2, 5, 4)
    assert_equal_but_for_rounding(kind, tensors, mask_stages)
    assert len(fused(kind, mask_stages).mask_heads) == mask_stages
    whole, limited = (run(fused(kind, stages), tensors)[2].short() for stages in (None, mask_stages))
    assert ((whole - limited).abs().max() > 20) == (mask_stages < 4)  # or there would be nothing to compare


def test_no_stage_is_refinement_switched_off() -> None:
    net, tensors = generator("v2-128"), inputs(13, 2, 5, 4)
    without = Generator(GeneratorConfig(**KINDS["no refinement"], num_labels=LABELS, ch=2, mask_classes=LABELS + 3))
    names = without.state_dict().keys()
    without.load_state_dict({name: value for name, value in net.state_dict().items() if name in names})
    for ours, theirs in zip(run(net, tensors, mask_stages=0)[:3], run(without.eval(), tensors)[:3], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(run(fused("v2-128", 0), tensors), run(fuse(without), tensors), strict=True):
        assert torch.equal(ours, theirs)


def test_a_stage_that_does_not_exist_is_not_fused() -> None:
    with pytest.raises(ValueError, match="v2-128 refines masks in 4 stages; give 0 to 4, not 5"):
        fuse(generator("v2-128"), mask_stages=5)


@pytest.mark.parametrize(("slots", "objects"), [(1, 1), (8, 1), (31, 31), (MAX_SLOTS, MAX_SLOTS)])
def test_any_number_of_slots(slots: int, objects: int) -> None:
    assert_equal_but_for_rounding("v2-128", inputs(5, 1, slots, objects))


def test_object_of_label_0_over_the_canvas() -> None:
    """Visual Genome's background: the box makes a slot empty, not the label."""
    tensors = inputs(6, 1, 4, 3)
    tensors["labels"][:, 2], tensors["boxes"][:, 2] = 0, torch.tensor(BACKGROUND_BOX)
    assert_equal_but_for_rounding("v2-128", tensors)


@pytest.mark.parametrize("variant", ["v1-64", "v2-128"])
def test_wrong_labels_become_the_nearest_that_exist(variant: str) -> None:
    wrong, right = inputs(9, 2, 3, 3), inputs(9, 2, 3, 3)
    wrong["labels"][1, :2], right["labels"][1, :2] = torch.tensor([-7, LABELS]), torch.tensor([0, LABELS - 1])
    for a, b in zip(run(fused(variant), wrong), run(fused(variant), right), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["v1-64", "v2-128", "boxes for masks", "spade", "context"])
def test_empty_slots_do_not_matter(kind: str) -> None:
    few = inputs(7, 2, 3, 3)
    many = {name: torch.from_numpy(array) for name, array in empty_batch(2, 12).items()}
    for name in ("labels", "boxes", "z_obj"):
        many[name][:, :3] = few[name]
    many["z_img"] = few["z_img"]
    assert tuple(many["boxes"][0, 3].tolist()) == pytest.approx(PAD_BOX)
    for a, b in zip(run(fused(kind), few), run(fused(kind), many), strict=True):
        a, b = a.short(), b.short()
        assert (a - (b[:, :3] if b.dim() == 4 and b.shape[1] == 12 else b)).abs().max() <= 1


def test_fusing_leaves_the_generator_as_it_is() -> None:
    net = generator("v1-64")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fuse(net)
    fold_spectral_norms(as_reference(net))
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    run(net, inputs(0, 1, 2, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("mask_stages", [None, 0])
def test_reference_equals_the_generator(kind: str, folded: bool, mask_stages: int | None) -> None:
    reference = as_reference(generator(kind))
    if folded:
        fold_spectral_norms(reference)
    tensors = inputs(8, 2, 5, 3)
    expected = run(generator(kind), tensors, mask_stages=mask_stages)
    output = run(reference, tensors, mask_stages=mask_stages)
    torch.testing.assert_close(output.image, expected.image, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.mask_final, expected.mask_final, rtol=0, atol=1e-5)


def test_reference_has_its_own_parts_and_the_same_weights() -> None:
    net = generator("v2-128")
    reference = as_reference(net)
    parts = {type(module) for module in reference.modules()}
    assert parts.isdisjoint({ISLANorm, ResBlock, MaskHead, PyramidPool})
    assert not reference.training
    theirs = reference.state_dict()
    assert list(theirs) == list(net.state_dict())
    assert all(torch.equal(value, theirs[key]) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), [("v1-64", "generator_v1_64"), ("v2-128", "generator_v2_128")])
def test_formulations_equal_the_original(variant: str, name: str, official_shapes: Any, golden: Any) -> None:
    arrays: Arrays = golden(name)
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in official_state(official_shapes[name]).items()}
    net = convert_official(state, GeneratorConfig(variant, 184))
    tensors = {key: torch.from_numpy(arrays["boxes_xywh" if key == "boxes" else key]) for key in INPUT_NAMES}
    reference = run(as_reference(net), tensors)
    np.testing.assert_allclose(reference.image, arrays["image"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(reference.mask_final, arrays["mask_final"].astype(np.float32), rtol=0, atol=1e-3)
    ours = run(fuse(net), tensors)[0].numpy().astype(np.int16)
    assert np.abs(ours - levels(torch.from_numpy(arrays["image"]))).max() <= 1


@pytest.mark.parametrize("kind", ["v1-64", "v2-128", "spade"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_stays_close(kind: str, precision: Precision) -> None:
    """Random weights are harsher than trained ones, whose image `export` holds to more."""
    tensors = inputs(11, 2, 5, 4)
    expected = run(fused(kind), tensors)
    image, owner, _ = run(fuse(generator(kind), precision), tensors)
    error = (image.float() - expected[0].float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > {"fp16": 40, "bf16": 24}[precision]
    assert (owner != expected[1]).float().mean() < 0.02
