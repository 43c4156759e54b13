"""The LostGAN generators: one class for every variant of the paper and for v2-512.

Source: Sun and Wu, "Learning Layout and Style Reconfigurable GANs for Controllable Image Synthesis", sections 2.2.1
(generator) and 2.2.2 (ISLA-Norm, masks). Shapes: B batch, O object slots, C channels, R resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from lostgan_serve.contract import NO_OBJECT, Z_DIM

WIDTHS = {
    "v1-64": (16, 8, 4, 2, 1),
    "v1-128": (16, 16, 8, 4, 2, 1),
    "v2-128": (16, 16, 8, 4, 2, 1),
    "v2-256": (16, 16, 8, 8, 4, 2, 1),
    "v2-512": (16, 16, 8, 8, 8, 4, 2, 1),
}
"""Channels, in multiples of `ch`, before, between and after the residual blocks. Each block doubles the side from 4."""

START_SIDE = 4
MASK_SIDE = 16  # side of an object's own mask
MASK_MAP_SIDE = 64  # side of the map that the objects' own masks are pasted into
MASK_HEAD_WIDTH = 100
PYRAMID_SIDES = (1, 2, 3, 6)
ISLA_EPS = 1e-6
SPECTRAL_EPS = 1e-4


@dataclass(frozen=True)
class GeneratorConfig:
    """What it takes to build a generator; stored in every checkpoint.

    variant: a key of `WIDTHS`. ch: width multiplier, 64 in the paper. num_labels: rows of the label embedding,
    `__image__` included. mask_classes: maps that a mask head predicts; 184 in all official weights, whatever the
    vocabulary. Raises ValueError for an unknown variant or impossible sizes.
    """

    variant: str
    num_labels: int
    ch: int = 64
    mask_classes: int = 184

    def __post_init__(self) -> None:
        if self.variant not in WIDTHS:
            raise ValueError(f"unknown variant {self.variant!r}; known: {', '.join(WIDTHS)}")
        if self.ch < 1 or self.num_labels < 1:
            raise ValueError(f"ch and num_labels must be positive, not {self.ch} and {self.num_labels}")
        if self.mask_classes < self.num_labels:
            raise ValueError(f"mask_classes ({self.mask_classes}) must cover num_labels ({self.num_labels})")

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(width * self.ch for width in WIDTHS[self.variant])

    @property
    def resolution(self) -> int:
        return START_SIDE << (len(self.channels) - 1)

    @property
    def refines_masks(self) -> bool:
        """True for V2: masks are updated from feature maps between blocks."""
        return self.variant.startswith("v2")

    @property
    def embedding_dim(self) -> int:
        return 128 if self.variant == "v1-64" else 180

    @property
    def object_dim(self) -> int:
        """Length of an object vector: style code and label embedding."""
        return Z_DIM + self.embedding_dim

    @property
    def pyramid_block(self) -> int | None:
        """Index of the block whose mask head pools a pyramid; only v2-128 has one."""
        return 3 if self.variant == "v2-128" else None


class GeneratorOutput(NamedTuple):
    """image: [B, 3, R, R] in [-1, 1]. mask_initial: [B, O, 64, 64], the pasted masks, in [0, 1].
    mask_final: the masks that enter the last block, [B, O, R/2, R/2] in V2 and `mask_initial` in V1."""

    image: Tensor
    mask_initial: Tensor
    mask_final: Tensor


def spectral_linear(inputs: int, outputs: int) -> nn.Linear:
    return cast(nn.Linear, spectral_norm(nn.Linear(inputs, outputs)))


def spectral_conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return cast(nn.Conv2d, spectral_norm(conv, eps=SPECTRAL_EPS))


def resize(maps: Tensor, side: int) -> Tensor:
    """Bilinear resize of [B, C, H, W] to [B, C, side, side], half-pixel centres."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def lattice(side: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of a side x side lattice over the canvas, in units of each box.

    boxes: [..., 4] as x, y, width, height in [0, 1]. Returns x and y, each [..., side]; a box covers [0, 1].
    """
    points = torch.linspace(0, 1, side, dtype=boxes.dtype, device=boxes.device)
    x, y, width, height = boxes.unsqueeze(-1).unbind(-2)
    return (points - x) / width, (points - y) / height


def hat_weights(positions: Tensor, taps: int) -> Tensor:
    """Weights of linear interpolation between `taps` samples spread over [0, 1], zeros outside (align_corners=True).

    positions: [..., N]. Returns [..., N, taps]: max(0, 1 - |p - k|) with p in units of the samples' spacing.
    """
    samples = torch.arange(taps, dtype=positions.dtype, device=positions.device)
    return (1 - (positions.unsqueeze(-1) * (taps - 1) - samples).abs()).clamp(min=0)


def paste_masks(masks: Tensor, boxes: Tensor, side: int = MASK_MAP_SIDE) -> Tensor:
    """Paste each object's own mask into its box on a side x side map by bilinear sampling.

    masks: [B, O, m, m]. boxes: [B, O, 4]. Returns [B, O, side, side]. Sampling on a separable lattice is two matrix
    products, which is exact and needs no GridSample.
    """
    x, y = lattice(side, boxes)
    taps = masks.shape[-1]
    return hat_weights(y, taps) @ masks @ hat_weights(x, taps).mT


def draw_boxes(boxes: Tensor, side: int) -> Tensor:
    """Indicator of each box, borders included, on the side x side lattice: [B, O, side, side] of 0 and 1."""
    x, y = lattice(side, boxes)
    inside_x, inside_y = (x >= 0) & (x <= 1), (y >= 0) & (y <= 1)
    return (inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2)).to(boxes.dtype)


def object_map(masks: Tensor) -> Tensor:
    """The slot with the strongest mask at each pixel; none where every mask rounds to zero.

    masks: [B, O, H, W] in [0, 1]. Returns [B, H, W] uint8.
    """
    strongest, owner = masks.max(1)
    return torch.where(strongest * 255 > 0.5, owner, NO_OBJECT).to(torch.uint8)


class ISLANorm(nn.Module):
    """Instance-sensitive and layout-aware normalization (equations 2 to 9).

    The objects' affine parameters are mixed by one matrix product per map, so the B x O x C x H x W tensor of the
    equations never exists.
    """

    def __init__(self, channels: int, object_dim: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma = spectral_linear(object_dim, channels)
        self.beta = spectral_linear(object_dim, channels)

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        """x: [B, C, H, W]; objects: [B, O, object_dim]; masks: [B, O, h, w], resized to H x W. Returns [B, C, H, W]."""
        masks = resize(masks, x.shape[-1])
        shares = (masks / (masks.sum(1, keepdim=True) + ISLA_EPS)).flatten(2)
        gamma = 1 + (self.gamma(objects).mT @ shares).view_as(x)
        beta = (self.beta(objects).mT @ shares).view_as(x)
        return cast(Tensor, gamma * self.batch_norm(x) + beta)


class ResBlock(nn.Module):
    """Residual block that doubles the side: ISLA-ReLU-up-conv-ISLA-ReLU-conv, beside up-conv1x1."""

    def __init__(self, inputs: int, outputs: int, object_dim: int) -> None:
        super().__init__()
        self.norm1 = ISLANorm(inputs, object_dim)
        self.conv1 = spectral_conv(inputs, outputs, 3)
        self.norm2 = ISLANorm(outputs, object_dim)
        self.conv2 = spectral_conv(outputs, outputs, 3)
        self.shortcut = spectral_conv(inputs, outputs, 1)

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        """x: [B, C, H, W]; objects: [B, O, object_dim]; masks: [B, O, h, w]. Returns [B, C', 2H, 2W]."""
        main = F.interpolate(self.norm1(x, objects, masks).relu(), scale_factor=2, mode="nearest")
        main = self.conv2(self.norm2(self.conv1(main), objects, masks).relu())
        shortcut = self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest"))
        return cast(Tensor, main + shortcut)


class ObjectMaskNet(nn.Module):
    """Object vector -> its own 16 x 16 mask in [0, 1]. V1 uses batch norm, V2 instance norm and twice the width."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.ch * (4 if config.refines_masks else 2)

        def norm() -> nn.Module:
            return nn.InstanceNorm2d(width) if config.refines_masks else nn.BatchNorm2d(width)

        self.fc = spectral_linear(config.object_dim, width * START_SIDE**2)
        self.convs = nn.ModuleList(spectral_conv(width, width, 3) for _ in range(3))
        self.norms = nn.ModuleList(norm() for _ in range(3))
        self.to_mask = spectral_conv(width, 1, 1)

    def forward(self, objects: Tensor) -> Tensor:
        """objects: [B, O, object_dim]. Returns [B, O, 16, 16]."""
        batch, slots = objects.shape[:2]
        x = self.fc(objects.flatten(0, 1)).unflatten(1, (-1, START_SIDE, START_SIDE))
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(resize(x, START_SIDE * 2**stage))).relu()
        return cast(Tensor, self.to_mask(x).sigmoid().view(batch, slots, MASK_SIDE, MASK_SIDE))


class PyramidPool(nn.Module):
    """Pyramid pooling in place of a mask head's first convolution (v2-128, block 4)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, outputs, 1, bias=False) for _ in PYRAMID_SIDES)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in PYRAMID_SIDES)
        self.bottleneck = nn.Conv2d(inputs + len(PYRAMID_SIDES) * outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, outputs, H, W]."""
        levels = [
            F.interpolate(
                norm(conv(F.adaptive_avg_pool2d(x, side))).relu(), x.shape[-2:], mode="bilinear", align_corners=True
            )
            for side, conv, norm in zip(PYRAMID_SIDES, self.convs, self.norms, strict=True)
        ]
        return cast(Tensor, self.dropout(self.norm(self.bottleneck(torch.cat([*levels, x], 1))).relu()))


class MaskHead(nn.Module):
    """Feature map -> one mask logit map per class ("ToMask" of figure 3)."""

    def __init__(self, inputs: int, classes: int, pyramid: bool) -> None:
        super().__init__()
        if pyramid:
            self.features: nn.Module = PyramidPool(inputs, MASK_HEAD_WIDTH)
        else:
            self.features = nn.Sequential(
                nn.Conv2d(inputs, MASK_HEAD_WIDTH, 3, padding=1), nn.BatchNorm2d(MASK_HEAD_WIDTH), nn.ReLU()
            )
        self.to_classes = nn.Conv2d(MASK_HEAD_WIDTH, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns logits [B, classes, H, W]."""
        return cast(Tensor, self.to_classes(self.features(x)))


class Generator(nn.Module):
    """Layout and style codes -> image and masks (equation 1). Weights start as torch's defaults; see `initialize`."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        blocks = len(channels) - 1
        self.label_embedding = nn.Embedding(config.num_labels, config.embedding_dim)
        self.fc = spectral_linear(Z_DIM, channels[0] * START_SIDE**2)
        self.mask_net = ObjectMaskNet(config)
        self.blocks = nn.ModuleList(ResBlock(channels[k], channels[k + 1], config.object_dim) for k in range(blocks))
        heads = blocks - 1 if config.refines_masks else 0
        self.mask_heads = nn.ModuleList(
            MaskHead(channels[k + 1], config.mask_classes, pyramid=k == config.pyramid_block) for k in range(heads)
        )
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(config.mask_classes)) for _ in range(heads))
        self.final_norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = spectral_conv(channels[-1], 3, 3)

    def forward(self, labels: Tensor, boxes: Tensor, z_obj: Tensor, z_img: Tensor) -> GeneratorOutput:
        """The contract's inputs: labels [B, O] int64, boxes [B, O, 4], z_obj [B, O, 128], z_img [B, 128], float32."""
        objects = torch.cat([z_obj, self.label_embedding(labels)], -1)
        mask_initial = masks = paste_masks(self.mask_net(objects), boxes)
        clip = draw_boxes(boxes, self.config.resolution // 2)
        x = self.fc(z_img).unflatten(1, (-1, START_SIDE, START_SIDE))
        for k, block in enumerate(self.blocks):
            if k > 0 and self.config.refines_masks:
                masks = self.refine_masks(k - 1, x, labels, mask_initial, clip)
            x = block(x, objects, masks)
        image = self.to_rgb(self.final_norm(x).relu()).tanh()
        return GeneratorOutput(image, mask_initial, masks)

    def refine_masks(self, head: int, x: Tensor, labels: Tensor, mask_initial: Tensor, clip: Tensor) -> Tensor:
        """Mix the initial masks with the maps that mask head `head` predicts from x (section 2.2.2, iv and vi).

        x: [B, C, H, W]. Returns [B, O, H, W].
        """
        side = x.shape[-1]
        logits = self.mask_heads[head](x)
        own = logits.gather(1, labels[..., None, None].expand(-1, -1, side, side))
        predicted = own.sigmoid() * F.interpolate(clip, size=(side, side), mode="nearest")
        alpha = self.alphas[head].sigmoid()[labels][..., None, None]
        return cast(Tensor, (1 - alpha) * resize(mask_initial, side) + alpha * predicted)


def initialize(network: nn.Module, seed: int) -> None:
    """Orthogonal weights and zero biases, in place, as a function of `seed`; alphas stay 0 (DESIGN, section 4)."""
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
