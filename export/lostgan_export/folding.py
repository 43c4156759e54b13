"""Folding: layers and the constants around them as layers of fewer parameters, exact up to rounding."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Affine(NamedTuple):
    """A map y = scale x + shift of each channel; both are [C]."""

    scale: Tensor
    shift: Tensor


def constant(value: Tensor) -> nn.Parameter:
    """Copy a value into a parameter of its own."""
    return nn.Parameter(value.detach().clone())


def affine_of(norm: nn.Module) -> Affine:
    """Reduce a batch norm in evaluation mode to its affine map."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return Affine(scale.float(), shift.float())


def homogeneous(layer: nn.Linear) -> Tensor:
    """Join weight, bias and a zero for the constant slot, [outputs, inputs + 2], with the spectral norm folded in."""
    return torch.cat([layer.weight, layer.bias.unsqueeze(1), torch.zeros(layer.out_features, 1)], 1)


def fold_linear(layer: nn.Linear) -> nn.Linear:
    """Copy a linear layer, with its spectral norm folded in."""
    copy = nn.Linear(layer.in_features, layer.out_features)
    copy.weight.copy_(layer.weight)
    copy.bias.copy_(layer.bias)
    return copy


def fold_conv(layer: nn.Module, after: Affine | None = None) -> nn.Conv2d:
    """Copy a convolution, with its spectral norm and the affine map that follows it folded in."""
    assert isinstance(layer, nn.Conv2d)
    scale, shift = after or Affine(torch.ones(layer.out_channels), torch.zeros(layer.out_channels))
    side = layer.kernel_size[0]
    copy = nn.Conv2d(layer.in_channels, layer.out_channels, side, padding=side // 2)
    copy.weight.copy_(layer.weight * scale.view(-1, 1, 1, 1))
    cast(Tensor, copy.bias).copy_(shift if layer.bias is None else layer.bias * scale + shift)
    return copy


@torch.no_grad()
def fold_spectral_norms(module: nn.Module) -> None:
    """Replace every spectral-normed layer by a plain one of the same weight, in place.

    A runtime does the same when it loads a graph. (torch's remove_parametrizations would do so in all deep copies of a
    layer at once: they share its class.)
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if parametrize.is_parametrized(layer, "weight"):
                setattr(parent, name, fold_linear(layer) if isinstance(layer, nn.Linear) else fold_conv(layer))
    module.eval()
