"""Layers that both networks are built of: spectral-normed layers, resizing by two, and their initial weights.

Shapes: B batch, C channels, H and W sides of a map.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

START_SIDE = 4
"""Side of the maps that the generator, and the net of the objects' masks, begin with."""

SPECTRAL_EPS = 1e-4

PIXELS_WORTH_IT = 1024
"""Pixels of a batch below which a 3x3 convolution costs less than to turn its weight into that of a 4x4 one."""


def spectral_linear(inputs: int, outputs: int) -> nn.Linear:
    """Make a linear layer with spectral norm."""
    return cast(nn.Linear, spectral_norm(nn.Linear(inputs, outputs)))


def spectral_conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Make a convolution with spectral norm, padded so that it keeps the sides of a map. kernel: its side, odd."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return cast(nn.Conv2d, spectral_norm(conv, eps=SPECTRAL_EPS))


def resize(maps: Tensor, side: int) -> Tensor:
    """Resize [B, C, H, H] to [B, C, side, side], bilinearly and with half-pixel centres.

    The scale is given and not the size: a traced graph would compute sizes when it runs, from B.
    """
    scale = side / maps.shape[-1]
    return maps if scale == 1 else F.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)


def upsample_and_convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Double the sides by repeating pixels, then convolve by 3x3: [B, C, H, W] -> [B, C', 2H, 2W].

    Both are one 4x4 transposed convolution of stride 2, which is 9/4 less work. Forwards and backwards on a CPU it
    takes half the time at ch 64, two thirds at ch 16.
    """
    if len(x) * (2 * x.shape[-1]) ** 2 < PIXELS_WORTH_IT:
        return cast(Tensor, conv(F.interpolate(x, scale_factor=2, mode="nearest")))
    # along an axis, the 3 taps that each of the 4 is the sum of
    taps = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=x.device)
    weight = torch.einsum("ta,ub,oiab->iotu", taps, taps, conv.weight)
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


def convolve_and_halve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve by 3x3, then average squares of 2x2 pixels: [B, C, H, W] -> [B, C', H/2, W/2].

    Both are one 4x4 convolution of stride 2, which is 9/4 less work.
    """
    if len(x) * x.shape[-1] ** 2 < PIXELS_WORTH_IT:
        return F.avg_pool2d(conv(x), 2)
    # along an axis, the 3 taps that each of the 4 is the sum of
    taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], device=x.device) / 2
    return F.conv2d(x, torch.einsum("ta,ub,oiab->oitu", taps, taps, conv.weight), conv.bias, stride=2, padding=1)


def initialize(network: nn.Module, seed: int) -> None:
    """Give a network orthogonal weights and zero biases, in place, as a function of `seed`.

    Alphas stay 0: refined masks begin as the mean of the initial and the predicted ones. So does the labels' context.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                continue
            spectral = is_parametrized(module, "weight")
            weight = module.get_parameter("parametrizations.weight.original" if spectral else "weight")
            nn.init.orthogonal_(weight, generator=rng)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.zero_()
            if spectral:
                _settle_spectral_vectors(module, rng)


def _settle_spectral_vectors(module: nn.Module, rng: torch.Generator) -> None:
    """Replace the vectors that torch drew from its global generator, and let them converge."""
    norm = module.get_submodule("parametrizations.weight.0")
    for vector in (cast(Tensor, norm._u), cast(Tensor, norm._v)):
        vector.copy_(F.normalize(torch.randn(vector.shape, generator=rng), dim=0))
    module.train()
    for _ in range(5):  # reading the weight in training mode runs one power iteration
        _ = module.weight
