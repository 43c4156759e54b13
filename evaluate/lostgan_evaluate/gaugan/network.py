"""GauGAN's generator: T. Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019.

It is the deterministic one, without an image encoder: no style code z enters, and a label map has one image. Modules
bear the names of the released weights.

Shapes: B batch, S side of the image, C channels of semantics: one for each label, and that of instance edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from lostgan_evaluate.gaugan.label_maps import LABELS
from lostgan_serve.errors import CheckpointError
from lostgan_train.networks.importer import read_official

WITH_EDGES = LABELS + 1
"""Channels of semantics that the released COCO-Stuff weights take; `LABELS` for a network without instance edges."""

_EMBEDDING = 128  # channels that a label map has before it becomes scales and shifts
_SLOPE = 0.2  # of leaky ReLUs
_SHRINKS = 32  # how much smaller the first map is than the image: five doublings follow


class SpatialNorm(nn.Module):
    """Batch norm whose scale and shift differ from pixel to pixel, as the semantics there tell (SPADE, section 3)."""

    def __init__(self, channels: int, semantics: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(_conv(semantics, _EMBEDDING), nn.ReLU())
        self.mlp_gamma = _conv(_EMBEDDING, channels)
        self.mlp_beta = _conv(_EMBEDDING, channels)

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        """x [B, channels, H, H], semantics [B, C, S, S] -> [B, channels, H, H]."""
        embedded = self.mlp_shared(F.interpolate(semantics, size=x.shape[2:]))
        shifted: Tensor = self.param_free_norm(x) * (1 + self.mlp_gamma(embedded)) + self.mlp_beta(embedded)
        return shifted


class Block(nn.Module):
    """Residual block: norm, leaky ReLU and convolution, twice. Where channels change, so does the shortcut."""

    def __init__(self, inputs: int, outputs: int, semantics: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.conv_0 = spectral_norm(_conv(inputs, middle))
        self.conv_1 = spectral_norm(_conv(middle, outputs))
        self.norm_0 = SpatialNorm(inputs, semantics)
        self.norm_1 = SpatialNorm(middle, semantics)
        self.learns_shortcut = inputs != outputs
        if self.learns_shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))
            self.norm_s = SpatialNorm(inputs, semantics)

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        """x [B, inputs, H, H], semantics [B, C, S, S] -> [B, outputs, H, H]."""
        shortcut: Tensor = self.conv_s(self.norm_s(x, semantics)) if self.learns_shortcut else x
        x = self.conv_0(F.leaky_relu(self.norm_0(x, semantics), _SLOPE))
        x = self.conv_1(F.leaky_relu(self.norm_1(x, semantics), _SLOPE))
        return shortcut + x


class GauGAN(nn.Module):
    """The generator. semantics: channels that it takes. width: channels of the last block, 64 in the released one."""

    def __init__(self, semantics: int = WITH_EDGES, width: int = 64) -> None:
        super().__init__()
        self.semantics = semantics
        wide = 16 * width
        self.fc = _conv(semantics, wide)
        self.head_0 = Block(wide, wide, semantics)
        self.G_middle_0 = Block(wide, wide, semantics)
        self.G_middle_1 = Block(wide, wide, semantics)
        self.up_0 = Block(wide, 8 * width, semantics)
        self.up_1 = Block(8 * width, 4 * width, semantics)
        self.up_2 = Block(4 * width, 2 * width, semantics)
        self.up_3 = Block(2 * width, width, semantics)
        self.conv_img = _conv(width, 3)

    def forward(self, semantics: Tensor) -> Tensor:
        """Semantics [B, C, S, S], of 0 and 1, S a multiple of 32 -> images [B, 3, S, S] in [-1, 1]."""
        x: Tensor = self.fc(F.interpolate(semantics, size=semantics.shape[-1] // _SHRINKS))
        x = self.head_0(x, semantics)
        x = self.G_middle_0(_doubled(x), semantics)
        x = self.G_middle_1(x, semantics)
        for block in (self.up_0, self.up_1, self.up_2, self.up_3):
            x = block(_doubled(x), semantics)
        return torch.tanh(self.conv_img(F.leaky_relu(x, _SLOPE)))


def load_gaugan(weights: Path) -> GauGAN:
    """Read released weights: a state dict that torch.save wrote, such as latest_net_G.pth of coco_pretrained.

    The width and the channels of semantics are those of the weights. Nothing but tensors is unpickled. Returns the
    network as it generates, in float32 on the CPU. Raises CheckpointError for weights that are no GauGAN generator's of
    COCO-Stuff, with or without instance edges, and InputError for a file that is missing or may not be read.
    """
    state = read_official(weights)
    try:
        with torch.device("meta"):  # names and shapes are compared before any memory is taken
            network = GauGAN(*_sizes(state))
        _check(state, network.state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval()


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of semantics and width of the network that weights are of. Raises CheckpointError."""
    first = state.get("fc.weight")
    if first is None or first.ndim not in (2, 4):
        raise CheckpointError("no weights of a GauGAN generator (fc.weight); give latest_net_G.pth of coco_pretrained")
    if first.ndim == 2:
        raise CheckpointError("weights of a network with a style encoder (--use_vae); give those of coco_pretrained")
    outputs, semantics = first.shape[:2]
    if semantics not in (LABELS, WITH_EDGES):
        raise CheckpointError(
            f"takes {semantics} channels of labels; those of COCO-Stuff are {LABELS}, or {WITH_EDGES} with instance "
            "edges: give latest_net_G.pth of coco_pretrained"
        )
    return semantics, max(outputs // 16, 1)


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for names or shapes that do not fit, and for values that are not finite."""
    for what, names in (("lacks", expected.keys() - state.keys()), ("has unknown", state.keys() - expected.keys())):
        if names:
            raise CheckpointError(
                f"{what} {len(names)} of a GauGAN generator's weights, such as {min(names)}; give latest_net_G.pth"
            )
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {list(value.shape)}, and not {list(expected[name].shape)}; give latest_net_G.pth"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name} holds values that are not finite; fetch the weights again")
