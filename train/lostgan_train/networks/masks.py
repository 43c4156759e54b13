"""Masks of the objects: from boxes, from object vectors, and from feature maps (section 2.2.2, iii and iv).

Shapes: B batch, O object slots, C channels, H and W sides of a map. Boxes are [B, O, 4]: x, y, width, height in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_serve.contract import NO_OBJECT
from lostgan_train.networks.layers import START_SIDE, resize, spectral_conv, spectral_linear

MASK_SIDE = 16
"""Side of an object's own mask."""

MASK_MAP_SIDE = 64
"""Side of the map that the objects' own masks are pasted into."""

MASK_HEAD_WIDTH = 100
PYRAMID_SIDES = (1, 2, 3, 6)


def lattice(side: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Find the positions of a side x side lattice over the canvas, in units of each box.

    boxes: [..., 4]. Returns x and y, each [..., side]; a box covers [0, 1].
    """
    points = torch.linspace(0, 1, side, dtype=boxes.dtype, device=boxes.device)
    x, y, width, height = boxes.unsqueeze(-1).unbind(-2)
    return (points - x) / width, (points - y) / height


def hat_weights(positions: Tensor, taps: int) -> Tensor:
    """Weigh `taps` samples spread over [0, 1] for linear interpolation, zeros outside (align_corners=True).

    positions: [..., N]. Returns [..., N, taps]: max(0, 1 - |p - k|) with p in units of the samples' spacing.
    """
    samples = torch.arange(taps, dtype=positions.dtype, device=positions.device)
    return (1 - (positions.unsqueeze(-1) * (taps - 1) - samples).abs()).clamp(min=0)


def paste_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Paste each object's own mask into its box by bilinear sampling: [B, O, m, m] -> [B, O, 64, 64].

    Sampling on a separable lattice is two matrix products, which is exact and needs no GridSample.
    """
    x, y = lattice(MASK_MAP_SIDE, boxes)
    taps = masks.shape[-1]
    return hat_weights(y, taps) @ masks @ hat_weights(x, taps).mT


def draw_boxes(boxes: Tensor, side: int) -> Tensor:
    """Rasterize each box, borders included, on the side x side lattice: [B, O, side, side] of 0 and 1."""
    x, y = lattice(side, boxes)
    inside_x, inside_y = (x >= 0) & (x <= 1), (y >= 0) & (y <= 1)
    return (inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2)).to(boxes.dtype)


def on_canvas(boxes: Tensor) -> Tensor:
    """Tell objects from empty slots: 1 for each box, [..., 4], that reaches into the canvas, else 0. Returns [...]."""
    corner, size = boxes.split(2, -1)
    inside: Tensor = ((corner < 1) & (corner + size > 0)).to(boxes.dtype)
    return inside[..., 0] * inside[..., 1]


def fit_masks(masks: Tensor, side: int, max_pool: bool) -> Tensor:
    """Resize masks [B, O, h, h] to those of a map, [B, O, side, side]. max_pool: see `GeneratorConfig`."""
    if max_pool and side < masks.shape[-1]:
        return F.max_pool2d(masks, masks.shape[-1] // side)
    return resize(masks, side)


def object_map(masks: Tensor) -> Tensor:
    """Find the slot with the strongest mask at each pixel; none where every mask rounds to zero.

    masks: [B, O, H, W] in [0, 1]. Returns [B, H, W] uint8.
    """
    strongest, owner = masks.max(1)
    return torch.where(strongest * 255 > 0.5, owner, NO_OBJECT).to(torch.uint8)


def to_levels(masks: Tensor) -> Tensor:
    """Round masks in [0, 1] to levels of 255, uint8."""
    return (masks * 255).round().to(torch.uint8)


class ObjectMaskNet(nn.Module):
    """Net from an object vector to the object's own 16 x 16 mask, in [0, 1].

    instance_norm: in place of batch norm, as V2 has it.
    """

    def __init__(self, object_dim: int, width: int, instance_norm: bool) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d if instance_norm else nn.BatchNorm2d
        self.fc = spectral_linear(object_dim, width * START_SIDE**2)
        self.convs = nn.ModuleList(spectral_conv(width, width, 3) for _ in range(3))
        self.norms = nn.ModuleList(norm(width) for _ in range(3))
        self.to_mask = spectral_conv(width, 1, 1)

    def forward(self, objects: Tensor) -> Tensor:
        """Map [B, O, object_dim] to [B, O, 16, 16]."""
        batch, slots = objects.shape[:2]
        x = self.fc(objects.flatten(0, 1)).unflatten(1, (-1, START_SIDE, START_SIDE))
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(resize(x, START_SIDE * 2**stage))).relu()
        return cast(Tensor, self.to_mask(x).sigmoid().view(batch, slots, MASK_SIDE, MASK_SIDE))


class PyramidPool(nn.Module):
    """Pyramid pooling in place of a mask head's first convolution (v2-128, block 4).

    The bottleneck convolves the concatenation of the upsampled levels and x. Being linear, it is computed as a sum,
    which is nearly all of the work saved, since the levels hold 400 of its channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, outputs, 1, bias=False) for _ in PYRAMID_SIDES)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in PYRAMID_SIDES)
        self.bottleneck = nn.Conv2d(inputs + len(PYRAMID_SIDES) * outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, outputs, H, W]."""
        levels = [
            norm(conv(F.adaptive_avg_pool2d(x, side))).relu()
            for side, conv, norm in zip(PYRAMID_SIDES, self.convs, self.norms, strict=True)
        ]
        *taps, own = split_bottleneck(self.bottleneck.weight)
        total = F.conv2d(x, own, padding=1) + convolve_upsampled(levels, taps, x.shape[-1])
        return cast(Tensor, self.dropout(self.norm(total).relu()))


class MaskHead(nn.Module):
    """Head from a feature map to a mask logit map for each object, of its class ("ToMask" of figure 3).

    pool: pyramid pooling in place of the first convolution.
    """

    def __init__(self, inputs: int, classes: int, pool: type[PyramidPool] | None = None) -> None:
        super().__init__()
        self.features: nn.Module = (
            pool(inputs, MASK_HEAD_WIDTH)
            if pool
            else nn.Sequential(
                nn.Conv2d(inputs, MASK_HEAD_WIDTH, 3, padding=1), nn.BatchNorm2d(MASK_HEAD_WIDTH), nn.ReLU()
            )
        )
        self.to_classes = nn.Conv2d(MASK_HEAD_WIDTH, classes, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict the logits [B, O, H, W] from x, [B, C, H, W]. labels: [B, O] int64.

        Only the classes at hand are computed, by one matrix product: classes / O times less work than all of them.
        """
        features = self.features(x)
        logits = self.to_classes.weight.flatten(1)[labels] @ features.flatten(2)
        logits = logits + self.to_classes.get_parameter("bias")[labels].unsqueeze(-1)
        return cast(Tensor, logits.unflatten(2, x.shape[2:]))


def pooling_matrix(source: int, target: int) -> Tensor:
    """Make the matrix [target, source] of adaptive average pooling along one axis."""
    return F.adaptive_avg_pool1d(torch.eye(source)[None], target)[0].mT


def shifted_upsampling(source: int, target: int) -> Tensor:
    """Make the matrix [target, 3 * source] of bilinear upsampling with aligned corners along one axis, shifted by -1, 0
    and 1 with zeros outside."""
    up = F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=True)[0].mT
    padded = F.pad(up, (0, 0, 1, 1))
    return torch.cat([padded[shift : shift + target] for shift in range(3)], 1)


def convolve_upsampled(levels: Sequence[Tensor], taps: Sequence[Tensor], side: int) -> Tensor:
    """Sum 3x3 convolutions of small maps that are upsampled to side x side (bilinear, align_corners=True).

    levels: [B, C, n, n] each. taps: for each level, [9 * C', C, 1, 1], the convolution's weight as a 1x1 convolution
    to all of its taps, outputs first, then rows and columns. Returns [B, C', side, side] as U taps(level) U^T, with U
    the upsampling shifted by -1, 0 and 1: the large maps are never convolved.
    """
    columns, spreads = [], []
    for level, weight in zip(levels, taps, strict=True):
        n = level.shape[-1]
        spread = shifted_upsampling(n, side).to(level)
        tapped = F.conv2d(level, weight).view(-1, weight.shape[0] // 9, 3, 3, n, n).permute(0, 1, 2, 4, 3, 5)
        columns.append(tapped.reshape(-1, weight.shape[0] // 9, 3 * n, 3 * n) @ spread.mT)
        spreads.append(spread)
    return torch.cat(spreads, 1) @ torch.cat(columns, 2)


def split_bottleneck(weight: Tensor) -> list[Tensor]:
    """Split the weight [W, 4 W + C, 3, 3] of a pyramid's bottleneck into the taps of its four levels, as
    `convolve_upsampled` takes them, and the weight [W, C, 3, 3] of its input."""
    width = weight.shape[0]
    *of_levels, own = weight.tensor_split([width * (k + 1) for k in range(len(PYRAMID_SIDES))], 1)
    return [*(part.permute(0, 2, 3, 1).reshape(-1, width, 1, 1) for part in of_levels), own]
