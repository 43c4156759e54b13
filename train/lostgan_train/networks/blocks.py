"""Residual blocks of the generator and of the discriminator (figures 3 and 4).

Shapes: B batch, C channels, H and W sides of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_train.networks.layers import convolve_and_halve, spectral_conv, upsample_and_convolve
from lostgan_train.networks.noise import NOISE_START, add_noise


class ResBlock(nn.Module):
    """Residual block that doubles the side: norm-ReLU-up-conv-norm-ReLU-conv, beside up-conv1x1.

    norm: makes an ISLA-Norm or a SPADE for so many channels. noisy: noise is added before the second norm, which lets
    each object scale it.
    """

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module], noisy: bool) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = spectral_conv(inputs, outputs, 3)
        self.norm2 = norm(outputs)
        self.conv2 = spectral_conv(outputs, outputs, 3)
        self.shortcut = spectral_conv(inputs, outputs, 1)
        self.noise_scale = nn.Parameter(torch.full((outputs,), NOISE_START)) if noisy else None

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor, doubled: Tensor, noise: Tensor | None) -> Tensor:
        """Map [B, C, H, W] to [B, C', 2H, 2W].

        objects: what the norms know them by. masks: [B, O, H, W]. doubled: the same masks as [B, O, 2H, 2W]. noise:
        [B, 1, 2H, 2W], for a noisy block.
        """
        main = upsample_and_convolve(self.norm1(x, objects, masks).relu(), self.conv1)
        main = add_noise(main, self.noise_scale, noise)
        main = self.conv2(self.norm2(main, objects, doubled).relu())
        # A 1x1 convolution commutes with repeating pixels: before it, it is four times less work.
        return cast(Tensor, main + F.interpolate(self.shortcut(x), scale_factor=2, mode="nearest"))


class DiscriminatorBlock(nn.Module):
    """Residual block of the discriminator: ReLU-conv-ReLU-conv beside a shortcut.

    halve: both end in averaging squares of 2x2 pixels. first: the first block of a network has no ReLU before its first
    convolution. The shortcut's 1x1 convolution commutes with averaging, so pooling comes first, which is four times
    less work; on the main path, averaging joins the last convolution.
    """

    def __init__(self, inputs: int, outputs: int, *, halve: bool, first: bool = False) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = spectral_conv(inputs, outputs, 3)
        self.conv2 = spectral_conv(outputs, outputs, 3)
        self.shortcut = spectral_conv(inputs, outputs, 1) if halve or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H, W], or to [B, C', H/2, W/2] where it halves."""
        main = self.conv1(x if self.first else x.relu()).relu()
        main = convolve_and_halve(main, self.conv2) if self.halve else self.conv2(main)
        side = F.avg_pool2d(x, 2) if self.halve else x
        return cast(Tensor, main + (side if self.shortcut is None else self.shortcut(side)))
