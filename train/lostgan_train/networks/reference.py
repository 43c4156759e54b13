"""The formulation of the paper, by the letter: the benchmarks' point of reference and an independent check of ours.

Objects' affine parameters are spread over B x O x C x H x W, masks pasted by grid sampling and predicted for every
class, and maps upsampled before they are convolved. It trains, too.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lostgan_train.networks.blocks import DiscriminatorBlock, ResBlock
from lostgan_train.networks.discriminator import Discriminator
from lostgan_train.networks.formulation import Formulation
from lostgan_train.networks.generator import Generator
from lostgan_train.networks.masks import MASK_MAP_SIDE, PYRAMID_SIDES, MaskHead, PyramidPool, lattice
from lostgan_train.networks.noise import add_noise
from lostgan_train.networks.norms import ISLA_EPS, ISLANorm

N = TypeVar("N", Generator, Discriminator)


class ReferenceISLANorm(ISLANorm):
    """ISLA-Norm by the letter of equations 6 to 9."""

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        masks = masks.unsqueeze(2)
        total = masks.sum(1) + ISLA_EPS
        gamma, beta = ((layer(objects)[..., None, None] * masks).sum(1) / total for layer in (self.gamma, self.beta))
        return cast(Tensor, (1 + gamma) * self.batch_norm(x) + beta)


class ReferenceResBlock(ResBlock):
    """Residual block that upsamples before both convolutions."""

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor, doubled: Tensor, noise: Tensor | None) -> Tensor:
        main = F.interpolate(self.norm1(x, objects, masks).relu(), scale_factor=2, mode="nearest")
        main = add_noise(self.conv1(main), self.noise_scale, noise)
        main = self.conv2(self.norm2(main, objects, doubled).relu())
        return cast(Tensor, main + self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest")))


class ReferenceDiscriminatorBlock(DiscriminatorBlock):
    """Residual block that averages after it has convolved, but for the shortcut of a network's first block."""

    def forward(self, x: Tensor) -> Tensor:
        def pool(maps: Tensor) -> Tensor:
            return F.avg_pool2d(maps, 2) if self.halve else maps

        main = pool(self.conv2(self.conv1(x if self.first else x.relu()).relu()))
        if self.shortcut is None:
            return main + pool(x)
        return main + (self.shortcut(pool(x)) if self.first else pool(self.shortcut(x)))


class ReferenceMaskHead(MaskHead):
    """Mask head that predicts the maps of all classes and gathers those of the labels."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.to_classes(self.features(x))
        return cast(Tensor, logits.gather(1, labels[..., None, None].expand(-1, -1, *x.shape[2:])))


class ReferencePyramidPool(PyramidPool):
    """Pyramid pooling that convolves the concatenation of the upsampled levels and the input."""

    def forward(self, x: Tensor) -> Tensor:
        levels = [
            F.interpolate(
                norm(conv(F.adaptive_avg_pool2d(x, side))).relu(), x.shape[-2:], mode="bilinear", align_corners=True
            )
            for side, conv, norm in zip(PYRAMID_SIDES, self.convs, self.norms, strict=True)
        ]
        return cast(Tensor, self.dropout(self.norm(self.bottleneck(torch.cat([*levels, x], 1))).relu()))


def sample_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Paste each object's own mask into its box by grid sampling: [B, O, m, m] and [B, O, 4] -> [B, O, 64, 64]."""
    batch, slots = masks.shape[:2]
    x, y = (2 * positions - 1 for positions in lattice(MASK_MAP_SIDE, boxes))
    shape = (batch, slots, MASK_MAP_SIDE, MASK_MAP_SIDE)
    grid = torch.stack([x.unsqueeze(-2).expand(shape), y.unsqueeze(-1).expand(shape)], -1).flatten(0, 1)
    pasted = F.grid_sample(masks.flatten(0, 1).unsqueeze(1), grid, mode="bilinear", align_corners=True)
    return pasted.view(shape)


REFERENCE = Formulation(
    isla_norm=ReferenceISLANorm,
    res_block=ReferenceResBlock,
    mask_head=ReferenceMaskHead,
    pyramid_pool=ReferencePyramidPool,
    discriminator_block=ReferenceDiscriminatorBlock,
    paste_masks=sample_masks,
)


def as_reference(network: N) -> N:
    """Build a copy of a network in the formulation of the paper, with the same weights under the same names."""
    copy = type(network)(network.config, REFERENCE)
    copy.load_state_dict(network.state_dict())
    return copy.train(network.training)
