"""The LostGAN generators: one class for every variant and ablation of the paper, and for v2-512.

Source: Sun and Wu, "Learning Layout and Style Reconfigurable GANs for Controllable Image Synthesis", sections 2.2.1
(generator), 2.2.2 (ISLA-Norm, masks) and 2.2.3 (SPADE). Shapes: B batch, O object slots, C channels, R resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast, get_args

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
SPADE_WIDTH = 128
PYRAMID_SIDES = (1, 2, 3, 6)
ISLA_EPS = 1e-6
SPECTRAL_EPS = 1e-4

PIXELS_WORTH_IT = 1024
"""Over a batch. A 3x3 convolution of fewer costs less than to turn its weight into that of a 4x4 one."""


Norm = Literal["isla", "spade"]


@dataclass(frozen=True)
class GeneratorConfig:
    """What it takes to build a generator; stored in every checkpoint.

    variant: a key of `WIDTHS`. ch: width multiplier, 64 in the paper. num_labels: rows of the label embedding,
    `__image__` included. mask_classes: maps that a mask head predicts; 184 in all official weights, whatever the
    vocabulary. norm: "spade" stands for LostGAN+SPADE (section 2.2.3). layout_to_mask, mask_refinement: components of
    table 7; without the first, the boxes are the objects' masks. Raises ValueError for an unknown variant or norm, or
    impossible sizes.
    """

    variant: str
    num_labels: int
    ch: int = 64
    mask_classes: int = 184
    norm: Norm = "isla"
    layout_to_mask: bool = True
    mask_refinement: bool = True

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
        return tuple(width * self.ch for width in WIDTHS[self.variant])

    @property
    def resolution(self) -> int:
        return START_SIDE << (len(self.channels) - 1)

    @property
    def is_v2(self) -> bool:
        return self.variant.startswith("v2")

    @property
    def refines_masks(self) -> bool:
        """Whether masks are updated from feature maps between blocks: in V2, unless switched off."""
        return self.is_v2 and self.mask_refinement

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
    mask_final: the masks that enter the last block, [B, O, R/2, R/2] where masks are refined, else `mask_initial`."""

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


def to_pixels(image: Tensor) -> Tensor:
    """[B, 3, R, R] in [-1, 1] -> [B, R, R, 3] uint8, rounded."""
    return ((image + 1) * 127.5).permute(0, 2, 3, 1).round().to(torch.uint8)


class ISLANorm(nn.Module):
    """Instance-sensitive and layout-aware normalization (equations 2 to 9).

    The objects' affine parameters are mixed by one matrix product for both maps, so the B x O x C x H x W tensor of the
    equations never exists; pixels come first in it, which is the memory order of channels_last.
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
        affine = shares.mT @ torch.cat([self.gamma(objects), self.beta(objects)], -1)
        gamma, beta = affine.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).chunk(2, 1)
        normalized = self.batch_norm(x)
        return cast(Tensor, normalized + gamma * normalized + beta)


class SPADENorm(nn.Module):
    """GauGAN's spatially adaptive normalization, on the masks that the generator makes (section 2.2.3).

    Its label map has the sum of the masks of each label's objects. Only the labels at hand are convolved: labels / O
    times less work, and no map of all labels. The styles of objects reach it through their masks alone.
    """

    def __init__(self, channels: int, num_labels: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(num_labels, SPADE_WIDTH, 3, padding=1)
        self.affine = nn.Conv2d(SPADE_WIDTH, 2 * channels, 3, padding=1)  # gamma and beta

    def forward(self, x: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """x: [B, C, H, W]; labels: [B, O]; masks: [B, O, h, w], resized to H x W. Returns [B, C, H, W]."""
        side = x.shape[-1]
        own = label_taps(self.shared)[labels].permute(0, 3, 2, 1).flatten(2)
        hidden = own @ neighbourhoods(resize(masks, side)) + self.shared.get_parameter("bias").unsqueeze(1)
        gamma, beta = self.affine(hidden.relu().unflatten(2, (side, side))).chunk(2, 1)
        normalized = self.batch_norm(x)
        return cast(Tensor, normalized + gamma * normalized + beta)


def label_taps(conv: nn.Conv2d) -> Tensor:
    """The weight of a 3x3 convolution of a label map, by label: [labels, 9, outputs]."""
    return conv.weight.flatten(2).permute(1, 2, 0)


def neighbourhoods(maps: Tensor) -> Tensor:
    """[B, O, H, W] -> [B, 9 * O, H * W]: each pixel's 3x3 neighbours, row by row, zeros outside."""
    side = maps.shape[-1]
    padded = F.pad(maps, (1, 1, 1, 1))
    return torch.cat([padded[:, :, y : y + side, x : x + side] for y in range(3) for x in range(3)], 1).flatten(2)


def upsample_and_convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Nearest x2 upsampling and a 3x3 convolution, [B, C, H, W] -> [B, C', 2H, 2W], as one 4x4 transposed convolution
    of stride 2: 9/4 less work. Forwards and backwards on a CPU it takes half the time at ch 64, two thirds at ch 16."""
    if len(x) * (2 * x.shape[-1]) ** 2 < PIXELS_WORTH_IT:
        return cast(Tensor, conv(F.interpolate(x, scale_factor=2, mode="nearest")))
    # along an axis, the 3 taps that each of the 4 is the sum of
    taps = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=x.device)
    weight = torch.einsum("ta,ub,oiab->iotu", taps, taps, conv.weight)
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


class ResBlock(nn.Module):
    """Residual block that doubles the side: norm-ReLU-up-conv-norm-ReLU-conv, beside up-conv1x1.

    norm: makes an ISLA-Norm or a SPADE for so many channels.
    """

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = spectral_conv(inputs, outputs, 3)
        self.norm2 = norm(outputs)
        self.conv2 = spectral_conv(outputs, outputs, 3)
        self.shortcut = spectral_conv(inputs, outputs, 1)

    def forward(self, x: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        """x: [B, C, H, W]; objects: what the norms know them by; masks: [B, O, h, w]. Returns [B, C', 2H, 2W]."""
        main = upsample_and_convolve(self.norm1(x, objects, masks).relu(), self.conv1)
        main = self.conv2(self.norm2(main, objects, masks).relu())
        # A 1x1 convolution commutes with repeating pixels: before it, it is four times less work.
        return cast(Tensor, main + F.interpolate(self.shortcut(x), scale_factor=2, mode="nearest"))


class ObjectMaskNet(nn.Module):
    """Object vector -> its own 16 x 16 mask in [0, 1]. V1 uses batch norm, V2 instance norm and twice the width."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.ch * (4 if config.is_v2 else 2)

        def norm() -> nn.Module:
            return nn.InstanceNorm2d(width) if config.is_v2 else nn.BatchNorm2d(width)

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


def pooling_matrix(source: int, target: int) -> Tensor:
    """[target, source]: adaptive average pooling along one axis."""
    return F.adaptive_avg_pool1d(torch.eye(source)[None], target)[0].mT


def shifted_upsampling(source: int, target: int) -> Tensor:
    """[target, 3 * source]: bilinear upsampling with aligned corners, shifted by -1, 0 and 1 with zeros outside."""
    up = F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=True)[0].mT
    padded = F.pad(up, (0, 0, 1, 1))
    return torch.cat([padded[shift : shift + target] for shift in range(3)], 1)


def convolve_upsampled(levels: Sequence[Tensor], taps: Sequence[Tensor], side: int) -> Tensor:
    """Sum of 3x3 convolutions of small maps that are upsampled to side x side (bilinear, align_corners=True).

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


class PyramidPool(nn.Module):
    """Pyramid pooling in place of a mask head's first convolution (v2-128, block 4).

    The bottleneck convolves the concatenation of the upsampled levels and x; being linear, it is computed as a sum,
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
        """x: [B, C, H, W]. Returns [B, outputs, H, W]."""
        levels = [
            norm(conv(F.adaptive_avg_pool2d(x, side))).relu()
            for side, conv, norm in zip(PYRAMID_SIDES, self.convs, self.norms, strict=True)
        ]
        *taps, own = split_bottleneck(self.bottleneck.weight)
        total = F.conv2d(x, own, padding=1) + convolve_upsampled(levels, taps, x.shape[-1])
        return cast(Tensor, self.dropout(self.norm(total).relu()))


def split_bottleneck(weight: Tensor) -> list[Tensor]:
    """The weight [W, 4 W + C, 3, 3] of a pyramid's bottleneck -> the taps of its four levels, as `convolve_upsampled`
    takes them, and the weight [W, C, 3, 3] of its input."""
    width = weight.shape[0]
    *of_levels, own = weight.tensor_split([width * (k + 1) for k in range(len(PYRAMID_SIDES))], 1)
    return [*(part.permute(0, 2, 3, 1).reshape(-1, width, 1, 1) for part in of_levels), own]


class MaskHead(nn.Module):
    """Feature map -> a mask logit map for each object, of its class ("ToMask" of figure 3)."""

    def __init__(self, inputs: int, classes: int, pyramid: bool) -> None:
        super().__init__()
        if pyramid:
            self.features: nn.Module = PyramidPool(inputs, MASK_HEAD_WIDTH)
        else:
            self.features = nn.Sequential(
                nn.Conv2d(inputs, MASK_HEAD_WIDTH, 3, padding=1), nn.BatchNorm2d(MASK_HEAD_WIDTH), nn.ReLU()
            )
        self.to_classes = nn.Conv2d(MASK_HEAD_WIDTH, classes, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x: [B, C, H, W]; labels: [B, O]. Returns logits [B, O, H, W].

        Only the classes at hand are computed, by one matrix product: classes / O times less work than all of them.
        """
        features = self.features(x)
        logits = self.to_classes.weight.flatten(1)[labels] @ features.flatten(2)
        logits = logits + self.to_classes.get_parameter("bias")[labels].unsqueeze(-1)
        return cast(Tensor, logits.unflatten(2, x.shape[2:]))


class Generator(nn.Module):
    """Layout and style codes -> image and masks (equation 1). Weights start as torch's defaults; see `initialize`."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        blocks = len(channels) - 1
        self.label_embedding = nn.Embedding(config.num_labels, config.embedding_dim)
        self.fc = spectral_linear(Z_DIM, channels[0] * START_SIDE**2)
        self.mask_net = ObjectMaskNet(config) if config.layout_to_mask else None
        norm: Callable[[int], nn.Module] = (
            partial(ISLANorm, object_dim=config.object_dim)
            if config.norm == "isla"
            else partial(SPADENorm, num_labels=config.num_labels)
        )
        self.blocks = nn.ModuleList(ResBlock(channels[k], channels[k + 1], norm) for k in range(blocks))
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
        mask_initial = masks = self.initial_masks(objects, boxes)
        clip = self.clip(boxes)
        known_by = objects if self.config.norm == "isla" else labels
        x = self.fc(z_img).unflatten(1, (-1, START_SIDE, START_SIDE))
        for k, block in enumerate(self.blocks):
            if k > 0 and self.config.refines_masks:
                masks = self.refine_masks(k - 1, x, labels, mask_initial, clip)
            x = block(x, known_by, masks)
        image = self.to_rgb(self.final_norm(x).relu()).tanh()
        return GeneratorOutput(image, mask_initial, masks)

    def initial_masks(self, objects: Tensor, boxes: Tensor) -> Tensor:
        """objects: [B, O, object_dim]; boxes: [B, O, 4]. Returns [B, O, 64, 64] in [0, 1]."""
        if self.mask_net is None:
            return draw_boxes(boxes, MASK_MAP_SIDE)
        return paste_masks(self.mask_net(objects), boxes)

    def clip(self, boxes: Tensor) -> Tensor:
        """Where predicted masks count: in the box, and for SPADE everywhere (section 2.2.3), but for empty slots.

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
