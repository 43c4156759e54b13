"""Noise in the generator: off by default, in shares that are learnt, a function of the image's style."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lostgan_serve.contract import Z_DIM
from lostgan_train.growing import can_grow, grown
from lostgan_train.networks.generator import Generator, GeneratorConfig
from lostgan_train.networks.layers import initialize
from lostgan_train.networks.noise import NOISE_START, NoiseMaps, fit_noise

PLAIN = GeneratorConfig("v2-128", num_labels=9, ch=4, mask_classes=9)
NOISY = replace(PLAIN, noise=True)


def made(config: GeneratorConfig, share: float | None = None) -> Generator:
    """A generator with this share of noise in every channel; None for that which it begins with."""
    generator = Generator(config)
    initialize(generator, seed=0)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_scale") and share is not None:
                parameter.fill_(share)
    return generator.eval()


@torch.inference_mode()
def paint(generator: Generator, z_img: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    labels = torch.tensor([[1, 4]]).repeat(len(z_img), 1)
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5]]]).repeat(len(z_img), 1, 1)
    z_obj = torch.randn(1, 2, Z_DIM, generator=rng).repeat(len(z_img), 1, 1)
    image: Tensor = generator(labels, boxes, z_obj, z_img).image
    return image


def styles(count: int) -> Tensor:
    return torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(2))


def test_a_share_of_nothing_is_no_noise() -> None:
    assert torch.equal(paint(made(PLAIN), styles(2)), paint(made(NOISY, 0.0), styles(2)))
    assert not torch.equal(paint(made(PLAIN), styles(2)), paint(made(NOISY), styles(2)))  # which begins with some


def test_weights_without_noise_are_those_of_before() -> None:
    assert not [name for name in made(PLAIN).state_dict() if "noise" in name]


def test_noise_is_normal_and_belongs_to_a_style() -> None:
    noise = NoiseMaps()(styles(64))
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean()
    assert neighbours.abs() < 0.02
    assert torch.equal(NoiseMaps()(styles(64)), noise)  # of every generator alike
    alike = torch.corrcoef(noise.flatten(1)).fill_diagonal_(0)
    assert alike.abs().mean() < 0.4
    assert torch.equal(NoiseMaps()(torch.zeros(1, Z_DIM)), torch.zeros(1, 1, 128, 128))  # no style, no division by 0


def test_larger_maps_repeat_the_noise_and_smaller_ones_are_cut() -> None:
    noise = NoiseMaps()(styles(2))
    assert torch.equal(fit_noise(noise, 8), noise[..., :8, :8])
    larger = fit_noise(noise, 256)
    assert larger.shape == (2, 1, 256, 256)
    assert torch.equal(larger[..., 128:, :128], noise)


def test_where_all_else_is_even_noise_makes_pixels_differ() -> None:
    """Inside a box that lies in another, pixels have the same objects, and noise tells them apart."""
    quiet, loud = (paint(made(NOISY, share), styles(1)) for share in (0.0, 2.0))
    inside = (..., slice(52, 76), slice(52, 76))
    assert loud[inside].std() > 1.2 * quiet[inside].std()
    assert torch.equal(loud, paint(made(NOISY, 2.0), styles(1)))  # the same style again


def test_each_channels_share_of_noise_learns() -> None:
    generator = made(NOISY).train()
    labels, boxes = torch.tensor([[1], [2]]), torch.tensor([[[0.0, 0, 1, 1]]]).repeat(2, 1, 1)
    generator(labels, boxes, styles(2).unsqueeze(1), styles(2)).image.square().mean().backward()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_scale"):
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).all(), name


def test_a_generator_grows_with_its_noise() -> None:
    source = made(NOISY, 0.5)
    target = grown(source, "v2-256", seed=3)
    shares = target.get_parameter("blocks.2.noise_scale")
    torch.testing.assert_close(shares, torch.tensor([0.5] * 16 + [NOISE_START] * 16))
    assert can_grow(PLAIN, replace(NOISY, variant="v2-256"))
    assert not can_grow(NOISY, replace(PLAIN, variant="v2-256"))
