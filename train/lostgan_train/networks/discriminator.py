"""The LostGAN discriminators: one class for every resolution, with an image head and an object head.

Source: Sun and Wu, section 2.2.4 and figure 4. Shapes: B batch, O object slots, C channels, R resolution, N objects
judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lostgan_serve.contract import IMAGE_LABEL
from lostgan_train.networks.formulation import OURS, Formulation
from lostgan_train.networks.layers import spectral_linear

ROI_SIDE = 8


@dataclass(frozen=True)
class _Plan:
    """Widths of the blocks, in multiples of ch.

    trunk: the blocks of the image head. halved: which of them halve the side. adapter, shared: blocks that small
    objects, and all objects, pass besides. head: the last block of the object head.

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
    """Scores, unbounded, higher for what looks real.

    image: [B, 1]. objects: [N, 1], batch-major, slots in order. slots: [N, 2], the batch index and slot of each."""

    image: Tensor
    objects: Tensor
    slots: Tensor


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes that a discriminator is built from; stored in every checkpoint.

    resolution: image side in px, 64, 128, 256 or 512. num_labels: rows of the label embedding, `__image__` included.
    ch: width multiplier, 64 in the paper. Raises ValueError for an unknown resolution or impossible sizes.
    """

    resolution: int
    num_labels: int
    ch: int = 64

    def __post_init__(self) -> None:
        if self.resolution not in _PLANS:
            raise ValueError(f"no discriminator of {self.resolution} px; there are {', '.join(map(str, _PLANS))}")
        if self.ch < 1 or self.num_labels < 1:
            raise ValueError(f"ch and num_labels must be positive, not {self.ch} and {self.num_labels}")


class Discriminator(nn.Module):
    """Discriminator from image and layout to scores: of the image, and of each object as its label (equation 10).

    formulation: how it computes; the weights and their names do not depend on it.
    """

    def __init__(self, config: DiscriminatorConfig, formulation: Formulation = OURS) -> None:
        super().__init__()
        self.config = config
        ch, plan = config.ch, _PLANS[config.resolution]
        self.plan = plan
        block = formulation.discriminator_block
        widths = (3, *(width * ch for width in plan.trunk))
        self.trunk = nn.ModuleList(
            block(widths[k], widths[k + 1], halve=halve, first=k == 0) for k, halve in enumerate(plan.halved)
        )
        self.image_score = spectral_linear(widths[-1], 1)
        coarse = widths[plan.branch if plan.shared is None else plan.branch + 1]
        if plan.adapter is not None and plan.shared is not None:
            self.adapter = block(widths[plan.branch], plan.adapter * ch, halve=False)
            self.shared = block(plan.adapter * ch, plan.shared * ch, halve=False)
            coarse = plan.shared * ch
        self.object_block = block(coarse, plan.head * ch, halve=True)
        self.object_score = spectral_linear(plan.head * ch, 1)
        self.label_embedding = cast(nn.Embedding, spectral_norm(nn.Embedding(config.num_labels, plan.head * ch)))

    def forward(self, image: Tensor, labels: Tensor, boxes: Tensor) -> Scores:
        """Judge images [B, 3, R, R] in [-1, 1]. labels: [B, O] int64. boxes: [B, O, 4] x, y, width, height in [0, 1].

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
        """Align the region of each judged object, [N, C, 8, 8]; small objects from the finer map."""
        own = boxes[slots[:, 0], slots[:, 1]]
        corners = torch.cat([own[:, :2], own[:, :2] + own[:, 2:]], 1) * self.config.resolution
        regions = torch.cat([slots[:, :1].to(corners), corners], 1)
        fine_map = maps[self.plan.branch]
        if self.plan.shared is None:
            return self._align(fine_map, regions)
        fine: Tensor = self.shared(self.adapter(fine_map))
        coarse: Tensor = self.shared(maps[self.plan.branch + 1])
        small = (own[:, 2:] * self.config.resolution < self.config.resolution // 2).all(1)
        result = fine.new_empty(len(regions), fine.shape[1], ROI_SIDE, ROI_SIDE)
        result[small] = self._align(fine, regions[small])
        result[~small] = self._align(coarse, regions[~small])
        return result

    def _align(self, features: Tensor, regions: Tensor) -> Tensor:
        from torchvision.ops import roi_align  # here, since export needs the rest of this module and no torchvision

        scale = features.shape[-1] / self.config.resolution
        return cast(
            Tensor, roi_align(features, regions, ROI_SIDE, spatial_scale=scale, sampling_ratio=0, aligned=False)
        )
