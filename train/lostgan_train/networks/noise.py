"""Noise for a network's feature maps: texture needs an irregular pattern, and without one it is made of the place.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019), section 3.2.
There each picture draws its own noise. Here it is a function of the image's style, so that a seed keeps its picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE_SIDE = 128
"""Side of the stored maps. Larger maps repeat them."""

NOISE_START = 0.1
"""Each channel's share of noise before it learns. From 0 it hardly would: to either side of 0 noise is as good."""

_MAPS = 8


class NoiseMaps(nn.Module):
    """Normal noise [B, 1, S, S], mixed of fixed maps by the first entries of z_img. Equal styles get equal noise."""

    maps: Tensor

    def __init__(self) -> None:
        super().__init__()
        # saved with the weights: another version of torch may draw other numbers
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("maps", torch.randn(_MAPS, NOISE_SIDE**2, generator=rng))

    def forward(self, z_img: Tensor) -> Tensor:
        """Map z_img, [B, 128], to noise [B, 1, 128, 128] of variance 1. A z_img of zeros has none."""
        return (F.normalize(z_img[:, :_MAPS], dim=1) @ self.maps).view(-1, 1, NOISE_SIDE, NOISE_SIDE)


def fit_noise(noise: Tensor, side: int) -> Tensor:
    """Cut or repeat [B, 1, 128, 128] to [B, 1, side, side]. side: a power of 2."""
    if side <= NOISE_SIDE:
        return noise[:, :, :side, :side]
    return noise.repeat(1, 1, side // NOISE_SIDE, side // NOISE_SIDE)


def add_noise(x: Tensor, scale: Tensor | None, noise: Tensor | None) -> Tensor:
    """Add noise [B, 1, H, W] to x, [B, C, H, W], in x's type. scale: [C], how much each channel takes of it. A network
    without noise has neither, and x stays as it is."""
    if scale is None or noise is None:
        return x
    return x + scale.to(x.dtype).view(-1, 1, 1) * noise.to(x.dtype)
