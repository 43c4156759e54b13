"""The LostGAN generators: one class for every variant and ablation of the paper, and for v2-512.

Source: Sun and Wu, "Learning Layout and Style Reconfigurable GANs for Controllable Image Synthesis", sections 2.2.1
(generator), 2.2.2 (ISLA-Norm, masks) and 2.2.3 (SPADE). Shapes: B batch, O object slots, C channels, R resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_serve.contract import IMAGE_LABEL, Z_DIM
from lostgan_train.networks.formulation import OURS, Formulation
from lostgan_train.networks.layers import START_SIDE, spectral_conv, spectral_linear
from lostgan_train.networks.masks import MASK_MAP_SIDE, ObjectMaskNet, draw_boxes, fit_masks, on_canvas
from lostgan_train.networks.noise import NoiseMaps, fit_noise
from lostgan_train.networks.norms import SPADENorm

WIDTHS = {
    "v1-64": (16, 8, 4, 2, 1),
    "v1-128": (16, 16, 8, 4, 2, 1),
    "v2-128": (16, 16, 8, 4, 2, 1),
    "v2-256": (16, 16, 8, 8, 4, 2, 1),
    "v2-512": (16, 16, 8, 8, 8, 4, 2, 1),
}
"""Channels, in multiples of `ch`, before, between and after the residual blocks. Each block doubles the side from 4."""

Norm = Literal["isla", "spade"]


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and choices that a generator is built from; stored in every checkpoint.

    variant: a key of `WIDTHS`. ch: width multiplier, 64 in the paper. num_labels: rows of the label embedding,
    `__image__` included. mask_classes: maps that a mask head predicts; 184 in all official weights, whatever the
    vocabulary. norm: "spade" stands for LostGAN+SPADE (section 2.2.3). layout_to_mask, mask_refinement: components of
    table 7; without the first, the boxes are the objects' masks. max_pool_masks: coarse maps get a mask's maximum over
    each of their pixels. The paper samples masks there, between whose samples small objects vanish, so that a moon
    cannot darken a whole sky. label_context: the labels at hand change the map that the blocks start from. The paper
    has nothing of the kind: there an object reaches as far as the first convolutions do, and a moon on the left leaves
    daylight on the right. Styles have no part in it, so they stay independent of one another. noise: each block adds
    noise, a function of z_img, in shares that it learns (see `lostgan_train.networks.noise`); not in the paper.

    Raises ValueError for an unknown variant or norm, or impossible sizes.
    """

    variant: str
    num_labels: int
    ch: int = 64
    mask_classes: int = 184
    norm: Norm = "isla"
    layout_to_mask: bool = True
    mask_refinement: bool = True
    max_pool_masks: bool = False
    label_context: bool = False
    noise: bool = False

    def __post_init__(self) -> None:
        if self.variant not in WIDTHS:
            raise ValueError(f"unknown variant {self.variant!r}; known: {', '.join(WIDTHS)}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"unknown norm {self.norm!r}; known: {', '.join(get_args(Norm))}")
        if self.ch < 1 or self.num_labels < 1:
            raise ValueError(f"ch and num_labels must be positive, not {self.ch} and {self.num_labels}")
        if self.mask_classes < self.num_labels:
            raise ValueError(f"mask_classes ({self.mask_classes}) must cover num_labels ({self.num_labels})")

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths of the feature maps, from the first, of `START_SIDE` px, to the last."""
        return tuple(width * self.ch for width in WIDTHS[self.variant])

    @property
    def resolution(self) -> int:
        """The side of the images in px."""
        return START_SIDE << (len(self.channels) - 1)

    @property
    def is_v2(self) -> bool:
        """Whether this is LostGAN-V2."""
        return self.variant.startswith("v2")

    @property
    def refines_masks(self) -> bool:
        """Refinement of the masks from feature maps between blocks: in V2, unless switched off."""
        return self.is_v2 and self.mask_refinement

    @property
    def embedding_dim(self) -> int:
        """Length of a label's embedding."""
        return 128 if self.variant == "v1-64" else 180

    @property
    def object_dim(self) -> int:
        """Length of an object vector: style code and label embedding."""
        return Z_DIM + self.embedding_dim

    @property
    def pyramid_block(self) -> int | None:
        """Index of the block whose mask head pools a pyramid; only v2-128 has one."""
        return 3 if self.variant == "v2-128" else None

    @property
    def mask_stages(self) -> int:
        """Number of stages that refine masks: one for every block but the first, or none."""
        return len(self.channels) - 2 if self.refines_masks else 0

    @property
    def mask_side(self) -> int:
        """The side of the final masks."""
        return self.resolution // 2 if self.refines_masks else MASK_MAP_SIDE

    def refined_stages(self, limit: int | None) -> int:
        """Count the stages that refine masks where refinement stops after stage `limit`; None stands for all.

        Raises ValueError for a stage that does not exist.
        """
        if limit is None:
            return self.mask_stages
        if not 0 <= limit <= self.mask_stages:
            known = f"0 to {self.mask_stages}" if self.mask_stages else "0"
            raise ValueError(f"{self.variant} refines masks in {self.mask_stages} stages; give {known}, not {limit}")
        return limit


class GeneratorOutput(NamedTuple):
    """Image and masks.

    image: [B, 3, R, R] in [-1, 1]. mask_initial: [B, O, 64, 64], the pasted masks, in [0, 1]. mask_final: the masks
    that enter the last block, [B, O, R/2, R/2] where all stages refine them, else those of the last stage that does.
    all_masks: the masks of every stage, from the initial ones to the final ones, where asked for; else empty.
    """

    image: Tensor
    mask_initial: Tensor
    mask_final: Tensor
    all_masks: tuple[Tensor, ...] = ()


def to_pixels(image: Tensor) -> Tensor:
    """Round [B, 3, R, R] in [-1, 1] to [B, R, R, 3] uint8."""
    return ((image + 1) * 127.5).permute(0, 2, 3, 1).round().to(torch.uint8)


class Generator(nn.Module):
    """Generator from layout and style codes to image and masks (equation 1).

    formulation: how it computes; the weights and their names do not depend on it. Weights start as torch's defaults;
    see `initialize`.
    """

    def __init__(self, config: GeneratorConfig, formulation: Formulation = OURS) -> None:
        super().__init__()
        self.config = config
        self.formulation = formulation
        channels = config.channels
        blocks = len(channels) - 1
        self.label_embedding = nn.Embedding(config.num_labels, config.embedding_dim)
        self.fc = spectral_linear(Z_DIM, channels[0] * START_SIDE**2)
        self.label_context = (
            nn.Parameter(torch.zeros(config.num_labels, self.fc.out_features)) if config.label_context else None
        )
        mask_width = config.ch * (4 if config.is_v2 else 2)
        self.mask_net = ObjectMaskNet(config.object_dim, mask_width, config.is_v2) if config.layout_to_mask else None
        norm: Callable[[int], nn.Module] = (
            partial(formulation.isla_norm, object_dim=config.object_dim)
            if config.norm == "isla"
            else partial(SPADENorm, num_labels=config.num_labels)
        )
        self.noise = NoiseMaps() if config.noise else None
        self.blocks = nn.ModuleList(
            formulation.res_block(channels[k], channels[k + 1], norm, config.noise) for k in range(blocks)
        )
        self.mask_heads = nn.ModuleList(
            formulation.mask_head(
                channels[k + 1], config.mask_classes, formulation.pyramid_pool if k == config.pyramid_block else None
            )
            for k in range(config.mask_stages)
        )
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(config.mask_classes)) for _ in self.mask_heads)
        self.final_norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = spectral_conv(channels[-1], 3, 3)

    def forward(
        self,
        labels: Tensor,
        boxes: Tensor,
        z_obj: Tensor,
        z_img: Tensor,
        *,
        mask_stages: int | None = None,
        all_masks: bool = False,
    ) -> GeneratorOutput:
        """Generate from the contract's inputs: labels [B, O] int64, boxes [B, O, 4], z_obj [B, O, 128], z_img [B, 128],
        float32.

        Stage k is block k, counted from 0, and its masks m_k are those that enter it. m_0 are the initial masks, made
        from label and style. Every other m_k mixes m_0 with masks predicted from the block's input (section 2.2.2, iv),
        and is [B, O, 4 * 2^k, 4 * 2^k].

        mask_stages: the last stage that refines masks, from 0 (none) to `config.mask_stages` (the default). The masks
        then stay as they are: with 2, block 2 and all blocks after it take m_2, resized. Table 8 evaluates a trained
        model so; its row "m0 ... m2" is 2, its row "m0" is 0. Section 3.5.2 puts the loss at 1 down to the low
        resolution of m_1, which therefore guides the later blocks, too. all_masks: hand out m_0 to the last refined
        masks, as figure 13 shows them. Raises ValueError for a stage that does not exist.
        """
        objects = torch.cat([z_obj, self.label_embedding(labels)], -1)
        masks = [self.initial_masks(objects, boxes)]
        clip = self.clip(boxes)
        known_by = objects if self.config.norm == "isla" else labels
        refined = self.config.refined_stages(mask_stages)
        x = self.start(labels, boxes, z_img)
        noise = None if self.noise is None else self.noise(z_img)
        for k, block in enumerate(self.blocks):
            if 0 < k <= refined:
                masks.append(self.refine_masks(k - 1, x, labels, masks[0], clip))
            sides = (x.shape[-1], 2 * x.shape[-1])
            guides = (fit_masks(masks[-1], side, self.config.max_pool_masks) for side in sides)
            x = block(x, known_by, *guides, None if noise is None else fit_noise(noise, sides[1]))
        image = self.to_rgb(self.final_norm(x).relu()).tanh()
        return GeneratorOutput(image, masks[0], masks[-1], tuple(masks) if all_masks else ())

    def start(self, labels: Tensor, boxes: Tensor, z_img: Tensor) -> Tensor:
        """Make the map that the blocks start from, [B, C, 4, 4]. Objects count whose boxes reach into the canvas.

        labels: [B, O] int64. boxes: [B, O, 4]. z_img: [B, 128].
        """
        x: Tensor = self.fc(z_img)
        if self.label_context is not None:
            context = F.embedding(labels, self.label_context, padding_idx=IMAGE_LABEL)
            x = x + (context * on_canvas(boxes).unsqueeze(-1)).sum(1)
        return cast(Tensor, x.unflatten(1, (-1, START_SIDE, START_SIDE)))

    def initial_masks(self, objects: Tensor, boxes: Tensor) -> Tensor:
        """Make the masks [B, O, 64, 64], in [0, 1]. objects: [B, O, object_dim]. boxes: [B, O, 4]."""
        if self.mask_net is None:
            return draw_boxes(boxes, MASK_MAP_SIDE)
        return self.formulation.paste_masks(self.mask_net(objects), boxes)

    def clip(self, boxes: Tensor) -> Tensor:
        """Mark where predicted masks count: in the box, and for SPADE everywhere (section 2.2.3), but for empty slots.

        boxes: [B, O, 4]. Returns [B, O, R/2, R/2] of 0 and 1.
        """
        inside = draw_boxes(boxes, self.config.resolution // 2)
        return inside if self.config.norm == "isla" else inside.amax((2, 3), keepdim=True).expand_as(inside)

    def refine_masks(self, head: int, x: Tensor, labels: Tensor, mask_initial: Tensor, clip: Tensor) -> Tensor:
        """Mix the initial masks with the maps that mask head `head` predicts from x (section 2.2.2, iv and vi).

        x: [B, C, H, W]. Returns [B, O, H, W].
        """
        side = x.shape[-1]
        predicted = self.mask_heads[head](x, labels).sigmoid()
        predicted = predicted * F.interpolate(clip, size=(side, side), mode="nearest")
        alpha = self.alphas[head].sigmoid()[labels][..., None, None]
        return cast(Tensor, (1 - alpha) * fit_masks(mask_initial, side, self.config.max_pool_masks) + alpha * predicted)
