"""The generator as the paper writes it, for comparison: the benchmark's baseline and an independent formulation."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lostgan_export.fused import fold_conv, fold_linear
from lostgan_train.networks.discriminator import DiscriminatorBlock
from lostgan_train.networks.generator import (
    ISLA_EPS,
    MASK_MAP_SIDE,
    PYRAMID_SIDES,
    Generator,
    ISLANorm,
    MaskHead,
    PyramidPool,
    ResBlock,
    lattice,
    resize,
)


def as_the_paper_writes(generator: Generator) -> Generator:
    """A copy with the same weights, under the same names, in the straightforward formulation: objects' affine
    parameters are painted into B x O x C x H x W, masks pasted by grid sampling and predicted for every class, maps
    upsampled before they are convolved, and spectral norms computed on the way. It trains, too."""
    plain = copy.deepcopy(generator)
    write_as_the_paper(plain)
    return plain


def write_as_the_paper(network: nn.Module) -> None:
    """`as_the_paper_writes`, in place; a discriminator, too."""
    for module in network.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))


class PlainGenerator(Generator):
    """Pastes masks by grid sampling."""

    def initial_masks(self, objects: Tensor, boxes: Tensor) -> Tensor:
        return (
            super().initial_masks(objects, boxes)
            if self.mask_net is None
            else sample_masks(self.mask_net(objects), boxes)
        )


class PlainISLANorm(ISLANorm):
    """ISLA-Norm by the letter of equations 6 to 9."""

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        masks = resize(masks, x.shape[-1]).unsqueeze(2)
        total = masks.sum(1) + ISLA_EPS
        gamma, beta = ((layer(objects)[..., None, None] * masks).sum(1) / total for layer in (self.gamma, self.beta))
        return cast(Tensor, (1 + gamma) * self.batch_norm(x) + beta)


class PlainResBlock(ResBlock):
    """Upsamples before both convolutions."""

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        main = F.interpolate(self.norm1(x, objects, masks).relu(), scale_factor=2, mode="nearest")
        main = self.conv2(self.norm2(self.conv1(main), objects, masks).relu())
        return cast(Tensor, main + self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest")))


class PlainDiscriminatorBlock(DiscriminatorBlock):
    """Averages what it has convolved, but for the shortcut of a network's first block."""

    def forward(self, x: Tensor) -> Tensor:
        def pool(maps: Tensor) -> Tensor:
            return F.avg_pool2d(maps, 2) if self.halve else maps

        main = pool(self.conv2(self.conv1(x if self.first else x.relu()).relu()))
        if self.shortcut is None:
            return main + pool(x)
        return main + (self.shortcut(pool(x)) if self.first else pool(self.shortcut(x)))


class PlainMaskHead(MaskHead):
    """Predicts the maps of all classes and gathers those of the labels."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.to_classes(self.features(x))
        return cast(Tensor, logits.gather(1, labels[..., None, None].expand(-1, -1, *x.shape[2:])))


class PlainPyramidPool(PyramidPool):
    """Convolves the concatenation of the upsampled levels and the input."""

    def forward(self, x: Tensor) -> Tensor:
        levels = [
            F.interpolate(
                norm(conv(F.adaptive_avg_pool2d(x, side))).relu(), x.shape[-2:], mode="bilinear", align_corners=True
            )
            for side, conv, norm in zip(PYRAMID_SIDES, self.convs, self.norms, strict=True)
        ]
        return cast(Tensor, self.dropout(self.norm(self.bottleneck(torch.cat([*levels, x], 1))).relu()))


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Generator: PlainGenerator,
    ISLANorm: PlainISLANorm,
    ResBlock: PlainResBlock,
    DiscriminatorBlock: PlainDiscriminatorBlock,
    MaskHead: PlainMaskHead,
    PyramidPool: PlainPyramidPool,
}


def sample_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """`paste_masks` by grid sampling: [B, O, 16, 16] and [B, O, 4] -> [B, O, 64, 64]."""
    batch, slots = masks.shape[:2]
    x, y = (2 * positions - 1 for positions in lattice(MASK_MAP_SIDE, boxes))
    shape = (batch, slots, MASK_MAP_SIDE, MASK_MAP_SIDE)
    grid = torch.stack([x.unsqueeze(-2).expand(shape), y.unsqueeze(-1).expand(shape)], -1).flatten(0, 1)
    pasted = F.grid_sample(masks.flatten(0, 1).unsqueeze(1), grid, mode="bilinear", align_corners=True)
    return pasted.view(shape)


@torch.no_grad()
def fold_spectral_norms(module: nn.Module) -> None:
    """Replace every spectral-normed layer by a plain one of the same weight, in place, as a runtime does when it loads
    a graph.

    (torch's remove_parametrizations would do so in all deep copies of a layer at once: they share its class.)
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if parametrize.is_parametrized(layer, "weight"):
                setattr(parent, name, fold_linear(layer) if isinstance(layer, nn.Linear) else fold_conv(layer))
    module.eval()
