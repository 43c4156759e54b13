"""Generators grown to a higher resolution: they paint the same picture, enlarged, and learn from there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lostgan_serve.contract import Z_DIM
from lostgan_train.growing import can_grow, grown
from lostgan_train.networks.generator import Generator, GeneratorConfig, GeneratorOutput
from lostgan_train.networks.layers import initialize

SMALL = GeneratorConfig("v2-128", 9, ch=4, mask_classes=9, max_pool_masks=True)


def lived_in(config: GeneratorConfig) -> Generator:
    """A generator whose biases, statistics and alphas are not those that it began with."""
    generator = Generator(config)
    initialize(generator, 0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if name.endswith(("bias", "running_mean")) or name.startswith("alphas"):
                tensor.add_(torch.randn(tensor.shape, generator=rng) / 4)
            elif name.endswith("running_var"):
                tensor.mul_(1 + torch.rand(tensor.shape, generator=rng))
    return generator.eval()


@torch.inference_mode()
def paint(generator: Generator, stages: int) -> tuple[GeneratorOutput, Tensor]:
    """The output, and the features that the image is a convolution of."""
    rng = torch.Generator().manual_seed(2)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.25, 0.5], [0.5, 0.125, 0.375, 0.25]]).repeat(2, 1, 1)
    labels = torch.tensor([[1, 4, 8], [2, 3, 5]])
    codes = (torch.randn(2, 3, Z_DIM, generator=rng), torch.randn(2, Z_DIM, generator=rng))
    features: list[Tensor] = []
    with generator.final_norm.register_forward_hook(lambda _module, _inputs, output: features.append(output)):
        output: GeneratorOutput = generator.eval()(labels, boxes, *codes, mask_stages=stages)
    return output, features[0]


@pytest.mark.parametrize(("small", "large"), [("v2-128", "v2-256"), ("v2-256", "v2-512"), ("v2-128", "v2-512")])
def test_a_grown_generator_paints_the_same_enlarged(small: str, large: str) -> None:
    """Up to the masks of the pyramid's head, which larger networks lack: two stages refine masks here."""
    source = lived_in(replace(SMALL, variant=small))
    target = grown(source, large, seed=3)
    assert target.config == replace(source.config, variant=large)
    (before, features), (after, enlarged) = (paint(generator, 2) for generator in (source, target))
    side = source.config.resolution
    assert after.image.shape[-1] == target.config.resolution
    assert features.std() > 0.1
    factor = target.config.resolution // side
    assert (enlarged - features.repeat_interleave(factor, 2).repeat_interleave(factor, 3)).abs().mean() < 0.01
    assert (F.adaptive_avg_pool2d(after.image, side) - before.image).abs().mean() < 0.15 * float(before.image.std())
    torch.testing.assert_close(after.mask_initial, before.mask_initial, atol=1e-5, rtol=1e-5)
    assert (after.mask_final - before.mask_final).abs().mean() < 1e-3


def test_every_weight_of_a_grown_generator_learns() -> None:
    """Those that change nothing at first have a gradient, or have one after a step."""
    source = lived_in(SMALL)
    target = grown(source, "v2-256", seed=3).train()
    optimizer = torch.optim.Adam(target.parameters(), 1e-3)
    start = {name: parameter.detach().clone() for name, parameter in target.named_parameters()}
    rng = torch.Generator().manual_seed(4)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.25, 0.5]]).repeat(2, 1, 1)
    for _ in range(3):
        codes = (torch.randn(2, 2, Z_DIM, generator=rng), torch.randn(2, Z_DIM, generator=rng))
        output = target(torch.tensor([[1, 4], [2, 3]]), boxes, *codes)
        optimizer.zero_grad()
        (output.image - torch.rand(output.image.shape, generator=rng)).square().mean().backward()
        optimizer.step()
    for name, parameter in target.named_parameters():
        assert not torch.equal(parameter, start[name]), name
        assert torch.isfinite(parameter).all(), name
    silent = target.get_parameter("blocks.5.norm2.beta.bias")[0]
    assert float(silent.detach()) != 0  # the channel that was silent takes part


def test_the_same_seed_grows_the_same_weights() -> None:
    source = lived_in(SMALL)
    first, again, other = (grown(source, "v2-256", seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_cannot_grow() -> None:
    for change in ({"ch": 8}, {"num_labels": 8}, {"norm": "spade"}, {"max_pool_masks": False}, {"variant": "v1-128"}):
        assert not can_grow(replace(SMALL, **change), replace(SMALL, variant="v2-256")), change
    for larger in ("v2-256", "v2-512"):
        assert can_grow(SMALL, replace(SMALL, variant=larger))
        assert not can_grow(replace(SMALL, variant=larger), SMALL)
    assert not can_grow(SMALL, SMALL)
    context = replace(SMALL, label_context=True)
    assert can_grow(SMALL, replace(context, variant="v2-256"))  # which begins as zeros
    assert not can_grow(context, replace(SMALL, variant="v2-256"))
