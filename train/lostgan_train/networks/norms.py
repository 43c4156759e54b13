"""Normalizations by the layout: ISLA-Norm (section 2.2.2, equations 2 to 9) and SPADE (section 2.2.3).

Shapes: B batch, O object slots, C channels, H and W sides of a map.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_train.networks.layers import spectral_linear

ISLA_EPS = 1e-6
SPADE_WIDTH = 128


class ISLANorm(nn.Module):
    """Instance-sensitive and layout-aware normalization (equations 2 to 9).

    The objects' affine parameters are mixed by one matrix product for both maps, so the B x O x C x H x W tensor of the
    equations never exists. Pixels come first in the product, which is the memory order of channels_last.
    """

    def __init__(self, channels: int, object_dim: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma = spectral_linear(object_dim, channels)
        self.beta = spectral_linear(object_dim, channels)

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        """Normalize x, [B, C, H, W]. objects: [B, O, object_dim]. masks: [B, O, H, W]."""
        shares = (masks / (masks.sum(1, keepdim=True) + ISLA_EPS)).flatten(2)
        affine = shares.mT @ torch.cat([self.gamma(objects), self.beta(objects)], -1)
        gamma, beta = affine.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).chunk(2, 1)
        normalized = self.batch_norm(x)
        return cast(Tensor, normalized + gamma * normalized + beta)


class SPADENorm(nn.Module):
    """GauGAN's spatially adaptive normalization, on the masks that the generator makes (section 2.2.3).

    Its label map has the sum of the masks of each label's objects. Only the labels at hand are convolved: labels / O
    times less work, and no map of all labels. The styles of objects reach it through their masks alone.
    """

    def __init__(self, channels: int, num_labels: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(num_labels, SPADE_WIDTH, 3, padding=1)
        self.affine = nn.Conv2d(SPADE_WIDTH, 2 * channels, 3, padding=1)  # gamma and beta

    def forward(self, x: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Normalize x, [B, C, H, W]. labels: [B, O] int64. masks: [B, O, H, W]."""
        own = label_taps(self.shared)[labels].permute(0, 3, 2, 1).flatten(2)
        hidden = own @ neighbourhoods(masks) + self.shared.get_parameter("bias").unsqueeze(1)
        gamma, beta = self.affine(hidden.relu().unflatten(2, x.shape[2:])).chunk(2, 1)
        normalized = self.batch_norm(x)
        return cast(Tensor, normalized + gamma * normalized + beta)


def label_taps(conv: nn.Conv2d) -> Tensor:
    """Order the weight of a 3x3 convolution of a label map by label: [labels, 9, outputs]."""
    return conv.weight.flatten(2).permute(1, 2, 0)


def neighbourhoods(maps: Tensor) -> Tensor:
    """Gather each pixel's 3x3 neighbours, row by row, zeros outside: [B, O, H, W] -> [B, 9 * O, H * W]."""
    side = maps.shape[-1]
    padded = F.pad(maps, (1, 1, 1, 1))
    return torch.cat([padded[:, :, y : y + side, x : x + side] for y in range(3) for x in range(3)], 1).flatten(2)
