"""The LostGAN discriminators: one class for every resolution, with an image head and an object head.

Source: Sun and Wu, section 2.2.4 and figure 4. Shapes: B batch, O object slots, C channels, R resolution, N objects
judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.ops import roi_align

from lostgan_serve.contract import IMAGE_LABEL
from lostgan_train.networks.generator import PIXELS_WORTH_IT, spectral_conv, spectral_linear

ROI_SIDE = 8


@dataclass(frozen=True)
class _Plan:
    """Widths are multiples of ch. trunk: the blocks of the image head; each of the first `halving` halves the side.

    The object head reads the trunk's maps after `branch` blocks (small objects: fine map, one more block) and after
    `branch + 1`, through a block that both share.
    """

    trunk: tuple[int, ...]
    halved: tuple[bool, ...]
    branch: int
    adapter: int | None
    shared: int | None
    head: int


def _halved(blocks: int) -> tuple[bool, ...]:
    return (*[True] * (blocks - 1), False)


_PLANS = {
    64: _Plan((1, 2, 4, 8, 16), (False, False, True, True, True), 3, None, None, 8),
    128: _Plan((1, 2, 4, 8, 16, 16), _halved(6), 2, 4, 8, 16),
    256: _Plan((1, 2, 4, 8, 8, 16, 16), _halved(7), 3, 8, 8, 16),
    512: _Plan((1, 2, 4, 8, 8, 8, 16, 16), _halved(8), 4, 8, 8, 16),
}


class Scores(NamedTuple):
    """image: [B, 1]. objects: [N, 1], batch-major, slots in order. slots: [N, 2], the batch index and slot of each."""

    image: Tensor
    objects: Tensor
    slots: Tensor


class DiscriminatorBlock(nn.Module):
    """ReLU-conv-ReLU-conv beside a shortcut; with `halve`, both end in 2x2 averaging. The first block of a network has
    no ReLU before its first convolution. The shortcut's 1x1 convolution commutes with averaging, so pooling comes
    first, which is four times less work; on the main path, averaging joins the last convolution."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool, first: bool = False) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = spectral_conv(inputs, outputs, 3)
        self.conv2 = spectral_conv(outputs, outputs, 3)
        self.shortcut = spectral_conv(inputs, outputs, 1) if halve or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W], or half the sides."""
        main = self.conv1(x if self.first else x.relu()).relu()
        main = convolve_and_halve(main, self.conv2) if self.halve else self.conv2(main)
        side = F.avg_pool2d(x, 2) if self.halve else x
        return cast(Tensor, main + (side if self.shortcut is None else self.shortcut(side)))


def convolve_and_halve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution and averaging of 2x2 pixels, [B, C, H, W] -> [B, C', H/2, W/2], as one 4x4 convolution of
    stride 2: 9/4 less work."""
    if len(x) * x.shape[-1] ** 2 < PIXELS_WORTH_IT:
        return F.avg_pool2d(conv(x), 2)
    # along an axis, the 3 taps that each of the 4 is the sum of
    taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], device=x.device) / 2
    return F.conv2d(x, torch.einsum("ta,ub,oiab->oitu", taps, taps, conv.weight), conv.bias, stride=2, padding=1)


class Discriminator(nn.Module):
    """Image and layout -> how real the image is, and each of its objects as what it is called (equation 10)."""

    def __init__(self, resolution: int, num_labels: int, ch: int = 64) -> None:
        super().__init__()
        if resolution not in _PLANS:
            raise ValueError(f"no discriminator of {resolution} px; there are {', '.join(map(str, _PLANS))}")
        plan = self.plan = _PLANS[resolution]
        self.resolution = resolution
        widths = (3, *(width * ch for width in plan.trunk))
        self.trunk = nn.ModuleList(
            DiscriminatorBlock(widths[k], widths[k + 1], halve=halve, first=k == 0)
            for k, halve in enumerate(plan.halved)
        )
        self.image_score = spectral_linear(widths[-1], 1)
        coarse = widths[plan.branch if plan.shared is None else plan.branch + 1]
        if plan.adapter is not None and plan.shared is not None:
            self.adapter = DiscriminatorBlock(widths[plan.branch], plan.adapter * ch, halve=False)
            self.shared = DiscriminatorBlock(plan.adapter * ch, plan.shared * ch, halve=False)
            coarse = plan.shared * ch
        self.object_block = DiscriminatorBlock(coarse, plan.head * ch, halve=True)
        self.object_score = spectral_linear(plan.head * ch, 1)
        self.label_embedding = cast(nn.Embedding, spectral_norm(nn.Embedding(num_labels, plan.head * ch)))

    def forward(self, image: Tensor, labels: Tensor, boxes: Tensor) -> Scores:
        """image: [B, 3, R, R] in [-1, 1]; labels: [B, O] int64; boxes: [B, O, 4] x, y, width, height in [0, 1].

        Slots of label 0 (empty ones, and Visual Genome's background) are not judged. `boxes` is left as it is.
        """
        maps = [image]
        for block in self.trunk:
            maps.append(block(maps[-1]))
        top = maps[-1].relu()
        pooled = top.mean((2, 3)) if self.plan.shared is None else top.sum((2, 3))
        slots = (labels != IMAGE_LABEL).nonzero()
        features = self.object_block(self._regions(maps, slots, boxes)).relu().sum((2, 3))
        own = self.label_embedding(labels[slots[:, 0], slots[:, 1]])
        return Scores(
            self.image_score(pooled), self.object_score(features) + (own * features).sum(1, keepdim=True), slots
        )

    def _regions(self, maps: list[Tensor], slots: Tensor, boxes: Tensor) -> Tensor:
        """RoIAlign of each judged object, [N, C, 8, 8]; small objects from the finer map."""
        own = boxes[slots[:, 0], slots[:, 1]]
        corners = torch.cat([own[:, :2], own[:, :2] + own[:, 2:]], 1) * self.resolution
        regions = torch.cat([slots[:, :1].to(corners), corners], 1)
        fine_map = maps[self.plan.branch]
        if self.plan.shared is None:
            return self._align(fine_map, regions)
        fine: Tensor = self.shared(self.adapter(fine_map))
        coarse: Tensor = self.shared(maps[self.plan.branch + 1])
        small = (own[:, 2:] * self.resolution < self.resolution // 2).all(1)
        result = fine.new_empty(len(regions), fine.shape[1], ROI_SIDE, ROI_SIDE)
        result[small] = self._align(fine, regions[small])
        result[~small] = self._align(coarse, regions[~small])
        return result

    def _align(self, features: Tensor, regions: Tensor) -> Tensor:
        scale = features.shape[-1] / self.resolution
        return cast(
            Tensor, roi_align(features, regions, ROI_SIDE, spatial_scale=scale, sampling_ratio=0, aligned=False)
        )
