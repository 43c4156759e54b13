"""The generator as a graph for inference: contract tensors in and out, and far less work than the training module.

`fuse(generator)` returns a new module; every step below is exact up to rounding (see "The fused generator" in
docs/design.md). Shapes: B batch, O object slots, C channels, R resolution, D length of an object vector. Every size but
B is fixed once traced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_export.folding import Affine, affine_of, constant, fold_conv, fold_linear, homogeneous
from lostgan_serve.manifest import Precision
from lostgan_train.networks.blocks import ResBlock
from lostgan_train.networks.generator import Generator, to_pixels
from lostgan_train.networks.layers import START_SIDE, resize
from lostgan_train.networks.masks import (
    MASK_MAP_SIDE,
    MASK_SIDE,
    PYRAMID_SIDES,
    MaskHead,
    ObjectMaskNet,
    PyramidPool,
    convolve_upsampled,
    draw_boxes,
    fit_masks,
    lattice,
    object_map,
    on_canvas,
    paste_masks,
    pooling_matrix,
    split_bottleneck,
    to_levels,
)
from lostgan_train.networks.noise import add_noise, fit_noise
from lostgan_train.networks.norms import ISLA_EPS, ISLANorm, SPADENorm, label_taps, neighbourhoods

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def fuse(generator: Generator, precision: Precision = "fp32", mask_stages: int | None = None) -> FusedGenerator:
    """Build the inference graph of a generator in evaluation mode. The generator itself stays as it is.

    precision: of the convolutions and matrix products, and of the feature maps between them. Inputs and outputs,
    pasting and mixing of masks, their shares, instance norm, sigmoid and tanh stay in fp32 whatever it is.
    mask_stages: the last stage that refines masks, as `Generator.forward` has it; the heads after it are left out.
    Raises ValueError for a stage that does not exist.
    """
    with torch.no_grad():
        fused = FusedGenerator(generator, UpsamplingConv if precision == "fp32" else PhaseConvs, mask_stages)
        for part in fused.in_low_precision():
            part.to(DTYPES[precision])
        return fused.eval().requires_grad_(False)


class FusedGenerator(nn.Module):
    """Graph from labels [B, O] int64, boxes [B, O, 4], z_obj [B, O, 128], z_img [B, 128] to image [B, R, R, 3],
    object_map [B, R, R], masks [B, O, R, R], all uint8.

    Object vectors are homogeneous: (z_obj, embedding, 1, 0). One more slot, the constant one, holds (0, 0, 0, 1), so
    that a matrix [weight | bias | constant] gives every object its affine parameters, and the layer its constants.
    """

    def __init__(
        self, generator: Generator, upsampling: Callable[[nn.Conv2d], nn.Module], mask_stages: int | None = None
    ) -> None:
        """Fold a generator.

        upsampling: the form that nearest upsampling and a convolution take. mask_stages: see `fuse`.
        """
        super().__init__()
        self.resolution = generator.config.resolution
        self.channels = generator.config.channels[0]
        self.spade = generator.config.norm == "spade"
        self.max_pool_masks = generator.config.max_pool_masks
        self.label_table = constant(F.pad(F.pad(generator.label_embedding.weight, (0, 1), value=1.0), (0, 1)))
        self.constant_slot = constant(torch.eye(generator.config.object_dim + 2)[None, -1:])
        self.fc = fold_linear(generator.fc)
        self.label_context = None if generator.label_context is None else constant(generator.label_context)
        self.noise = None if generator.noise is None else copy.deepcopy(generator.noise)
        self.mask_net = None if generator.mask_net is None else FusedMaskNet(generator.mask_net)
        self.mask_heads = nn.ModuleList(
            FusedMaskHead(cast(MaskHead, generator.mask_heads[k]), generator.alphas[k])
            for k in range(generator.config.refined_stages(mask_stages))
        )
        blocks = [cast(ResBlock, block) for block in generator.blocks]
        self.blocks = nn.ModuleList(FusedResBlock(block, upsampling) for block in blocks[:-1])
        self.blocks.append(FusedResBlock(blocks[-1], upsampling, affine_of(generator.final_norm)))
        self.to_rgb = SquaresToRGB(fold_conv(generator.to_rgb))

    def in_low_precision(self) -> Iterator[nn.Module]:
        """Yield the parts whose weights may be of another type than fp32; their inputs are cast to it."""
        yield from (self.fc, self.blocks, self.to_rgb)
        if self.mask_net is not None:
            yield self.mask_net
        for head in self.mask_heads:
            yield from (cast(FusedMaskHead, head).features, cast(FusedMaskHead, head).to_logits)

    def forward(self, labels: Tensor, boxes: Tensor, z_obj: Tensor, z_img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.to_rgb.weight.dtype
        labels = labels.clamp(0, self.label_table.shape[0] - 1)  # or one wrong id would fail the whole batch
        objects = torch.cat([z_obj, F.embedding(labels, self.label_table)], -1)
        pasted = (
            draw_boxes(boxes, MASK_MAP_SIDE) if self.mask_net is None else paste_masks(self.mask_net(objects), boxes)
        )
        objects = torch.cat([objects, self.constant_slot.expand(objects.shape[0], -1, -1)], 1).mT
        known_by, guide = (labels, neighbourhoods) if self.spade else (objects.to(dtype), _shares)
        rows, columns = self._inside(boxes)
        x = self.fc(z_img.to(dtype))
        if self.label_context is not None:
            context = F.embedding(labels, self.label_context) * on_canvas(boxes).unsqueeze(-1)
            x = x + context.sum(1).to(dtype)
        x = x.view(-1, self.channels, START_SIDE, START_SIDE)
        noise = None if self.noise is None else self.noise(z_img).to(dtype)
        masks = pasted
        for k, block in enumerate(self.blocks):
            side = x.shape[-1]
            if 0 < k <= len(self.mask_heads):
                step = self.resolution // 2 // side  # nearest resizing by a whole factor keeps every step-th sample
                clip = rows[:, :, ::step, None], columns[:, :, None, ::step]
                masks = self.mask_heads[k - 1](x, labels, fit_masks(pasted, side, self.max_pool_masks), clip)
            guides = (guide(fit_masks(masks, size, self.max_pool_masks)).to(dtype) for size in (side, 2 * side))
            x = block(x, known_by, *guides, None if noise is None else fit_noise(noise, 2 * side))
        masks = resize(masks, self.resolution)
        image = self.to_rgb(x.relu())
        # casts come last: TensorRT has uint8 only at the end of a network
        return to_pixels(image), object_map(masks), to_levels(masks)

    def _inside(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Find the rows and columns of the R/2 lattice in each box, borders included: [B, O, R/2] of 0 and 1. With
        SPADE all do, but for empty slots (`Generator.clip`)."""
        x, y = (((p >= 0) & (p <= 1)).to(boxes.dtype) for p in lattice(self.resolution // 2, boxes))
        if self.spade:
            x, y = (inside.amax(2, keepdim=True).expand_as(inside) for inside in (x, y))
        return y, x


class FusedMaskNet(nn.Module):
    """Net from homogeneous object vectors [B, O, D + 2] to the objects' own masks [B, O, 16, 16].

    Nothing stands between the linear layer and the first convolution, so they are one matrix. Batch norm folds into
    the convolutions; instance norm depends on the data.
    """

    def __init__(self, net: ObjectMaskNet) -> None:
        super().__init__()
        norms = list(net.norms)
        self.instance_norm = isinstance(norms[0], nn.InstanceNorm2d)
        first, *others = (
            fold_conv(conv, None if self.instance_norm else affine_of(norm))
            for conv, norm in zip(net.convs, norms, strict=True)
        )
        fc = homogeneous(net.fc).double().mT.reshape(-1, first.in_channels, START_SIDE, START_SIDE)  # one per input
        fc = F.conv2d(fc, first.weight.double(), padding=1)
        fc[-2] += cast(Tensor, first.bias).double().view(-1, 1, 1)
        self.fc = constant(fc.float())
        self.convs = nn.ModuleList(others)
        self.to_mask = fold_conv(net.to_mask)

    def forward(self, objects: Tensor) -> Tensor:
        x = self._norm((objects.to(self.fc.dtype) @ self.fc.flatten(1)).view(-1, *self.fc.shape[1:]))
        for conv in self.convs:
            x = self._norm(conv(resize(x, 2 * x.shape[-1])))
        return cast(Tensor, self.to_mask(x).float().sigmoid().reshape(*objects.shape[:2], MASK_SIDE, MASK_SIDE))

    def _norm(self, x: Tensor) -> Tensor:
        return (F.instance_norm(x.float()).to(x.dtype) if self.instance_norm else x).relu()


class FusedISLANorm(nn.Module):
    """ISLA-Norm and the ReLU after it. Batch norm's statistics fold into the two maps and into the constant slot."""

    def __init__(self, norm: ISLANorm) -> None:
        super().__init__()
        scale, shift = (value.unsqueeze(1) for value in affine_of(norm.batch_norm))
        gamma, beta = homogeneous(norm.gamma), homogeneous(norm.beta)
        beta = beta + gamma * shift
        gamma = gamma * scale
        gamma[:, -1:], beta[:, -1:] = scale, shift
        self.gamma, self.beta = constant(gamma), constant(beta)

    def forward(self, x: Tensor, objects: Tensor, shares: Tensor) -> Tensor:
        """Normalize x, [B, C, H, W]. objects: [B, D + 2, O + 1]. shares: [B, O + 1, H * W], see `_shares`."""
        gamma, beta = ((weight @ objects @ shares).view_as(x) for weight in (self.gamma, self.beta))
        return (x * gamma + beta).relu()


class FusedSPADENorm(nn.Module):
    """SPADE and the ReLU after it, with batch norm as an affine map."""

    def __init__(self, norm: SPADENorm) -> None:
        super().__init__()
        self.scale, self.shift = (constant(value.view(-1, 1, 1)) for value in affine_of(norm.batch_norm))
        self.taps = constant(label_taps(norm.shared).flatten(1))
        self.bias = constant(cast(Tensor, norm.shared.bias).unsqueeze(1))
        self.affine = fold_conv(norm.affine)

    def forward(self, x: Tensor, labels: Tensor, windows: Tensor) -> Tensor:
        """Normalize x, [B, C, H, W]. labels: [B, O]. windows: [B, 9 * O, H * W], the masks' `neighbourhoods`."""
        slots, width = labels.shape[1], self.bias.shape[0]
        own = F.embedding(labels, self.taps).view(-1, slots, 9, width).permute(0, 3, 2, 1).reshape(-1, width, 9 * slots)
        hidden = (own @ windows + self.bias).relu().view(-1, width, *x.shape[2:])
        gamma, beta = self.affine(hidden).chunk(2, 1)
        return cast(Tensor, (x * self.scale + self.shift) * (gamma + 1) + beta).relu()


def fuse_norm(norm: nn.Module) -> nn.Module:
    """Fuse an ISLA-Norm or a SPADE with the ReLU after it."""
    return FusedSPADENorm(norm) if isinstance(norm, SPADENorm) else FusedISLANorm(cast(ISLANorm, norm))


class FusedResBlock(nn.Module):
    """A residual block that stays at the lower side as long as it can: the shortcut's 1x1 convolution commutes with
    nearest upsampling, and upsampling joins the 3x3 convolution after it.

    after: an affine map of the block's output, folded into its last convolutions.
    """

    def __init__(
        self, block: ResBlock, upsampling: Callable[[nn.Conv2d], nn.Module], after: Affine | None = None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = fuse_norm(block.norm1), fuse_norm(block.norm2)
        self.conv1 = upsampling(block.conv1)
        self.noise_scale = None if block.noise_scale is None else constant(block.noise_scale)
        self.conv2 = fold_conv(block.conv2, after)
        self.shortcut = fold_conv(block.shortcut, after and Affine(after.scale, torch.zeros_like(after.shift)))

    def forward(self, x: Tensor, known_by: Tensor, guide: Tensor, guide_after: Tensor, noise: Tensor | None) -> Tensor:
        """Map [B, C, H, W] to [B, C', 2H, 2W].

        known_by: the objects as the norms know them. guide, guide_after: the masks as the norms take them, at the side
        of x and at twice that. noise: [B, 1, 2H, 2W], where the generator has it.
        """
        main = self.conv1(self.norm1(x, known_by, guide))
        main = add_noise(main, self.noise_scale, noise)
        main = self.conv2(self.norm2(main, known_by, guide_after))
        return cast(Tensor, main + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest"))


_PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""Taps along an axis, for even and odd outputs: those of the three whose sum is the weight of each of two inputs."""


class UpsamplingConv(nn.Module):
    """Nearest x2 upsampling and a 3x3 convolution as convolutions of the small map, one for each parity of row and
    column, interleaved. For fp32: as few products as can be, 12 for the 36 of a square of 2x2 pixels.

    Along columns, output 2j sees inputs j - 1 and j through (w0, w1 + w2), output 2j + 1 sees j and j + 1 through
    (w0 + w1, w2). Along rows three products do for two outputs: with s = w0 + w1 + w2, output 2i is
    s x[i] - w0 (x[i] - x[i - 1]), and output 2i + 1 is s x[i] + w2 (x[i + 1] - x[i]). (So they would along columns; but
    that takes more passes over the maps than it saves.) In ONNX Runtime, on a CPU, all of v2-256 is 1.04 times as fast
    as with four 2x2 convolutions concatenated alike, and these 1.34 times as fast as the plain form (batch 4).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        rows = torch.tensor([[1.0, 1, 1], [-1, 0, 0], [0, 0, 1]])
        weights = torch.einsum("ra,quc,oiac->rqoiu", rows, _PHASES, conv.weight).unsqueeze(-2)
        self.shared, self.even, self.odd = (nn.ParameterList(constant(w) for w in pair) for pair in weights)
        self.bias = constant(cast(Tensor, conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', 2H, 2W]."""
        padded = F.pad(x, (0, 0, 1, 1))
        from_above, to_below = x - padded[:, :, :-2], padded[:, :, 2:] - x
        even, odd = [], []
        for column in (0, 1):
            sides = (1 - column, column)
            both = F.conv2d(F.pad(x, sides), self.shared[column], self.bias)
            even.append(F.conv2d(F.pad(from_above, sides), self.even[column]) + both)
            odd.append(F.conv2d(F.pad(to_below, sides), self.odd[column]) + both)
        rows = [torch.stack(pair, -1).flatten(-2) for pair in (even, odd)]
        return torch.stack(rows, -2).flatten(2, 3)


class PhaseConvs(nn.Module):
    """Nearest x2 upsampling and a 3x3 convolution as four 2x2 convolutions, 16 products for the 36, interleaved by one
    transposition.

    It serves fp16 and bf16, whose machines multiply so fast that a pass over the maps costs more. OpenVINO concatenates
    columns value by value: v2-256 in bf16 is 1.17 times as fast with this transposition. A transposed convolution is as
    fast, but TensorRT-RTX 1.7 has none in bf16.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weights = torch.einsum("pta,quc,oiac->pqoitu", _PHASES, _PHASES, conv.weight).flatten(0, 1)
        self.weights = nn.ParameterList(constant(weight) for weight in weights)
        self.bias = constant(cast(Tensor, conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', 2H, 2W]."""
        phases = [
            F.conv2d(F.pad(x, (1 - column, column, 1 - row, row)), self.weights[2 * row + column], self.bias)
            for row in (0, 1)
            for column in (0, 1)
        ]
        _, channels, height, width = phases[0].shape
        squares = torch.cat(phases, 1).view(-1, 2, 2, channels, height, width)
        return squares.permute(0, 3, 4, 1, 5, 2).reshape(-1, channels, 2 * height, 2 * width)


class SquaresToRGB(nn.Conv2d):
    """The last 3x3 convolution and tanh, [B, C, R, R] -> [B, 3, R, R] in fp32: a square of 2x2 pixels at a time, as one
    4x4 convolution of stride 2. Convolutions compute channels by eights or sixteens: 12 of them waste less than 3."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, 4 * conv.out_channels, 4, stride=2, padding=1)
        shifted = [F.pad(conv.weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)]
        self.weight.copy_(torch.stack(shifted, 1).flatten(0, 1))
        cast(Tensor, self.bias).copy_(cast(Tensor, conv.bias).repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x).float().tanh(), 2)


class FusedMaskHead(nn.Module):
    """Mask head that computes only the maps of the labels at hand, and the update of the masks with them."""

    def __init__(self, head: MaskHead, alpha: Tensor) -> None:
        super().__init__()
        if isinstance(head.features, PyramidPool):
            self.features: nn.Module = FusedPyramidPool(head.features)
        else:
            conv, norm, _ = cast(nn.Sequential, head.features)
            self.features = fold_conv(conv, affine_of(norm))
        self.to_logits = FusedLogits(head.to_classes)
        self.alpha = constant(alpha.sigmoid().unsqueeze(1))

    def forward(self, x: Tensor, labels: Tensor, pasted: Tensor, clip: tuple[Tensor, Tensor]) -> Tensor:
        """Refine the pasted masks, [B, O, H, W], by x, [B, C, H, W].

        clip: rows [B, O, H, 1] and columns [B, O, 1, W] of the boxes.
        """
        logits = self.to_logits(self.features(x).relu().flatten(2), labels).float()
        alpha = F.embedding(labels, self.alpha).unsqueeze(-1)
        rows, columns = clip
        predicted = logits.view_as(pasted).sigmoid() * (alpha * rows) * columns
        return cast(Tensor, (1 - alpha) * pasted + predicted)


class FusedLogits(nn.Module):
    """The rows of a 1x1 convolution that the labels at hand need."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = constant(conv.weight.flatten(1))
        self.bias = constant(cast(Tensor, conv.bias).unsqueeze(1))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Map features [B, C, H * W] to logits [B, O, H * W]. labels: [B, O]."""
        return F.embedding(labels, self.weight) @ features + F.embedding(labels, self.bias)


class FusedPyramidPool(nn.Module):
    """Pyramid pooling by constant matrices, average pooling too: P x P^T."""

    def __init__(self, pool: PyramidPool) -> None:
        super().__init__()
        scale, shift = affine_of(pool.norm)
        *taps, own = split_bottleneck(pool.bottleneck.weight * scale.view(-1, 1, 1, 1))
        self.levels = nn.ModuleList(
            fold_conv(cast(nn.Conv2d, conv), affine_of(norm)) for conv, norm in zip(pool.convs, pool.norms, strict=True)
        )
        self.taps = nn.ParameterList(constant(weight) for weight in taps)
        self.bottleneck = nn.Conv2d(own.shape[1], own.shape[0], 3, padding=1)
        self.bottleneck.weight.copy_(own)
        cast(Tensor, self.bottleneck.bias).copy_(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, 100, H, W], before the ReLU."""
        side = x.shape[-1]
        pools = [pooling_matrix(side, level).to(x) for level in PYRAMID_SIDES]
        levels = [conv(pool @ x @ pool.mT).relu() for pool, conv in zip(pools, self.levels, strict=True)]
        return cast(Tensor, self.bottleneck(x) + convolve_upsampled(levels, list(self.taps), side))


def _shares(masks: Tensor) -> Tensor:
    """Find each object's share of a pixel, and 1 for the constant slot: [B, O, H, W] -> [B, O + 1, H * W]."""
    masks = masks.flatten(2)
    total = masks.sum(1, keepdim=True) + ISLA_EPS
    return torch.cat([masks, total], 1) / total
