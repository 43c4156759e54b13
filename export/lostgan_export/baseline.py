"""The generator as the paper writes it, for comparison: the benchmark's baseline and an independent formulation."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lostgan_export.fused import fold_conv, fold_linear
from lostgan_train.generator import (
    ISLA_EPS,
    MASK_MAP_SIDE,
    START_SIDE,
    Generator,
    ISLANorm,
    draw_boxes,
    lattice,
    resize,
)


class PlainGenerator(nn.Module):
    """A generator's weights in the straightforward formulation: objects' affine parameters are painted into
    B x O x C x H x W, masks pasted by grid sampling and predicted for every class, maps upsampled before they are
    convolved, and spectral norms computed on the way.

    The contract's inputs -> image [B, 3, R, R] in [-1, 1] and masks [B, O, h, h] in [0, 1].
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        for block in self.generator.blocks:
            for name in ("norm1", "norm2"):
                setattr(block, name, PaintedISLANorm(cast(ISLANorm, getattr(block, name))))
        self.eval()

    def forward(self, labels: Tensor, boxes: Tensor, z_obj: Tensor, z_img: Tensor) -> tuple[Tensor, Tensor]:
        net = self.generator
        objects = torch.cat([z_obj, net.label_embedding(labels)], -1)
        mask_initial = masks = sample_masks(net.mask_net(objects), boxes)
        clip = draw_boxes(boxes, net.config.resolution // 2)
        x = net.fc(z_img).view(-1, net.config.channels[0], START_SIDE, START_SIDE)
        for k, block in enumerate(net.blocks):
            if k > 0 and net.config.refines_masks:
                masks = net.refine_masks(k - 1, x, labels, mask_initial, clip)
            x = block(x, objects, masks)
        return net.to_rgb(net.final_norm(x).relu()).tanh(), masks


class PaintedISLANorm(nn.Module):
    """ISLA-Norm by the letter of equations 6 to 9."""

    def __init__(self, norm: ISLANorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        """x: [B, C, H, W]; objects: [B, O, D]; masks: [B, O, h, w]. Returns [B, C, H, W]."""
        masks = resize(masks, x.shape[-1]).unsqueeze(2)
        total = masks.sum(1) + ISLA_EPS
        gamma, beta = (
            (layer(objects)[..., None, None] * masks).sum(1) / total for layer in (self.norm.gamma, self.norm.beta)
        )
        return cast(Tensor, (1 + gamma) * self.norm.batch_norm(x) + beta)


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
