"""The generator as a graph for inference: contract tensors in and out, and far less work than the training module.

`fuse(generator)` returns a new module; every step below is exact up to rounding (DESIGN, section 5). Shapes: B batch,
O object slots, C channels, R resolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_serve.contract import NO_OBJECT
from lostgan_train.generator import (
    ISLA_EPS,
    MASK_MAP_SIDE,
    MASK_SIDE,
    START_SIDE,
    Generator,
    ISLANorm,
    MaskHead,
    ObjectMaskNet,
    PYRAMID_SIDES,
    PyramidPool,
    ResBlock,
    hat_weights,
    lattice,
    resize,
)


def fuse(generator: Generator) -> FusedGenerator:
    """Build the inference graph of a generator in evaluation mode. The generator itself stays as it is."""
    with torch.no_grad():
        return FusedGenerator(generator).eval().requires_grad_(False)


class FusedGenerator(nn.Module):
    """labels [B, O] int64, boxes [B, O, 4], z_obj [B, O, 128], z_img [B, 128] -> image [B, R, R, 3],
    object_map [B, R, R], masks [B, O, R, R], all uint8."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.resolution = generator.config.resolution
        self.refines_masks = generator.config.refines_masks
        self.label_embedding = _constant(generator.label_embedding.weight)
        self.fc = _linear(generator.fc)
        self.mask_net = FusedMaskNet(generator.mask_net)
        self.mask_heads = nn.ModuleList(
            FusedMaskHead(head, alpha) for head, alpha in zip(generator.mask_heads, generator.alphas, strict=True)
        )
        scale, shift = _affine(generator.final_norm)
        last = len(generator.blocks) - 1
        self.blocks = nn.ModuleList(
            FusedResBlock(block, (scale, shift) if k == last else None) for k, block in enumerate(generator.blocks)
        )
        self.to_rgb = _conv(generator.to_rgb)

    def forward(self, labels: Tensor, boxes: Tensor, z_obj: Tensor, z_img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        objects = torch.cat([z_obj, self.label_embedding[labels]], -1)
        own_masks = self.mask_net(objects)
        pasted = PastedMasks(own_masks, boxes)
        x = self.fc(z_img).unflatten(1, (-1, START_SIDE, START_SIDE))
        for k, block in enumerate(self.blocks):
            side = x.shape[-1]
            if k > 0 and self.refines_masks:
                before = self.mask_heads[k - 1](x, labels, pasted.at(side), self._draw_boxes(boxes, side))
                after = resize(before, 2 * side)
            else:
                before, after = pasted.at(side), pasted.at(2 * side)
            x = block(x, objects, before, after)
        image = self.to_rgb(x.relu()).tanh()
        return _to_pixels(image), _object_map(after), (after * 255).round().to(torch.uint8)

    def _draw_boxes(self, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the R/2 lattice, kept by nearest resizing to `side`, that lie in each box."""
        step = self.resolution // 2 // side
        inside = []
        for positions in lattice(self.resolution // 2, boxes):
            kept = positions[..., ::step]
            inside.append(((kept >= 0) & (kept <= 1)).to(boxes.dtype))
        return inside[1].unsqueeze(-1), inside[0].unsqueeze(-2)


class PastedMasks:
    """The objects' own masks, pasted and resized in one step: per axis, resizing and sampling are one matrix."""

    def __init__(self, own_masks: Tensor, boxes: Tensor) -> None:
        x, y = lattice(MASK_MAP_SIDE, boxes)
        self.own_masks = own_masks
        self.columns, self.rows = hat_weights(x, MASK_SIDE), hat_weights(y, MASK_SIDE)

    def at(self, side: int) -> Tensor:
        """[B, O, side, side]."""
        to_side = _resize_matrix(MASK_MAP_SIDE, side).to(self.rows)
        return (to_side @ self.rows) @ self.own_masks @ (to_side @ self.columns).mT


class FusedMaskNet(nn.Module):
    """[B, O, D] -> [B, O, 16, 16]. Batch norm is folded into the convolutions; instance norm is data-dependent."""

    def __init__(self, net: ObjectMaskNet) -> None:
        super().__init__()
        self.fc = _linear(net.fc)
        self.instance_norm = isinstance(net.norms[0], nn.InstanceNorm2d)
        affines = [None if self.instance_norm else _affine(norm) for norm in net.norms]
        self.convs = nn.ModuleList(_conv(conv, affine) for conv, affine in zip(net.convs, affines, strict=True))
        self.to_mask = _conv(net.to_mask)

    def forward(self, objects: Tensor) -> Tensor:
        batch, slots, _ = objects.shape
        x = self.fc(objects).reshape(batch * slots, -1, START_SIDE, START_SIDE)
        for stage, conv in enumerate(self.convs):
            x = conv(resize(x, START_SIDE * 2**stage))
            x = (F.instance_norm(x) if self.instance_norm else x).relu()
        return self.to_mask(x).sigmoid().reshape(batch, slots, MASK_SIDE, MASK_SIDE)


class FusedISLANorm(nn.Module):
    """ISLA-Norm and the ReLU after it, with one matrix product for gamma and beta together.

    Batch norm's statistics fold into the two linear maps; what is left of them is constant over the objects and joins
    the product as one more slot whose mask is one everywhere.
    """

    def __init__(self, norm: ISLANorm) -> None:
        super().__init__()
        scale, shift = _affine(norm.batch_norm)
        gamma, beta = _linear(norm.gamma), _linear(norm.beta)
        self.affine = nn.Linear(gamma.in_features, 2 * gamma.out_features)
        for ours, of_gamma, of_beta in (
            (self.affine.weight, gamma.weight, beta.weight),
            (self.affine.bias, gamma.bias, beta.bias),
        ):
            columns = (-1, *[1] * (of_gamma.dim() - 1))
            ours.copy_(torch.cat([of_gamma * scale.view(columns), of_beta + of_gamma * shift.view(columns)]))
        self.base = _constant(torch.cat([scale, shift]).view(1, 1, -1))

    def forward(self, x: Tensor, objects: Tensor, shares: Tensor) -> Tensor:
        """x: [B, C, H, W]; objects: [B, O, D]; shares: [B, O + 1, H * W], see `_shares`."""
        batch, channels, height, width = x.shape
        affine = torch.cat([self.affine(objects), self.base.expand(batch, -1, -1)], 1)
        gamma, beta = (affine.mT @ shares).reshape(batch, 2 * channels, height, width).split(channels, 1)
        return (x * gamma + beta).relu()


class FusedResBlock(nn.Module):
    """A residual block at the lower side as long as possible: the shortcut's 1x1 convolution commutes with nearest
    upsampling, and upsampling with the 3x3 convolution after it is one transposed convolution.

    after: an affine map of the block's output, folded into its last convolutions.
    """

    def __init__(self, block: ResBlock, after: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = FusedISLANorm(block.norm1), FusedISLANorm(block.norm2)
        self.conv1 = _upsampling_conv(block.conv1)
        self.conv2 = _conv(block.conv2, after)
        self.shortcut = _conv(block.shortcut, None if after is None else (after[0], torch.zeros_like(after[1])))

    def forward(self, x: Tensor, objects: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """before, after: the objects' masks at the sides of x and of the output, [B, O, H, W] and [B, O, 2H, 2W]."""
        main = self.conv1(self.norm1(x, objects, _shares(before)))
        main = self.conv2(self.norm2(main, objects, _shares(after)))
        return main + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


class FusedMaskHead(nn.Module):
    """Mask head that computes only the maps of the labels at hand, and the update of the masks with them."""

    def __init__(self, head: MaskHead, alpha: Tensor) -> None:
        super().__init__()
        if isinstance(head.features, PyramidPool):
            self.features: nn.Module = FusedPyramidPool(head.features)
        else:
            self.features = _conv(head.features[0], _affine(head.features[1]))
        self.weight = _constant(head.to_classes.weight.flatten(1))
        self.bias = _constant(head.to_classes.bias)
        self.alpha = _constant(alpha.sigmoid())

    def forward(self, x: Tensor, labels: Tensor, pasted: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """x: [B, C, H, W]; pasted: [B, O, H, W]; drawn: rows [B, O, H, 1] and columns [B, O, 1, W] of the boxes."""
        features = self.features(x).relu()
        logits = self.weight[labels] @ features.flatten(2) + self.bias[labels].unsqueeze(-1)
        alpha = self.alpha[labels].unsqueeze(-1).unsqueeze(-1)
        predicted = logits.reshape(pasted.shape).sigmoid() * (alpha * drawn[0]) * drawn[1]
        return (1 - alpha) * pasted + predicted


class FusedPyramidPool(nn.Module):
    """Pyramid pooling by constant matrices: average pooling is P x, and the bottleneck's 3x3 convolution over an
    upsampled n x n level is a sum of nine products U_i (level) U_j^T with shifted interpolation matrices."""

    def __init__(self, pool: PyramidPool) -> None:
        super().__init__()
        affine = _affine(pool.norm)
        self.levels = nn.ModuleList(
            _conv(conv, _affine(norm)) for conv, norm in zip(pool.convs, pool.norms, strict=True)
        )
        weight = pool.bottleneck.weight * affine[0].view(-1, 1, 1, 1)
        width = self.levels[0].out_channels
        self.taps = nn.ParameterList(
            # [3 outputs-by-row, 3 by-column] tap matrices of this level's slice of the bottleneck, as one 1x1 conv
            nn.Parameter(weight[:, k * width : (k + 1) * width].permute(2, 3, 0, 1).reshape(-1, width, 1, 1))
            for k in range(len(self.levels))
        )
        self.bottleneck = nn.Conv2d(weight.shape[1] - len(self.levels) * width, width, 3, padding=1)
        self.bottleneck.weight.copy_(weight[:, len(self.levels) * width :])
        self.bottleneck.bias.copy_(affine[1])
        self.sides = [int(conv_side) for conv_side in PYRAMID_SIDES]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 100, H, W], before the ReLU."""
        side = x.shape[-1]
        total = self.bottleneck(x)
        for level, conv, taps in zip(self.sides, self.levels, self.taps, strict=True):
            pooling = _pooling_matrix(side, level).to(x)
            pooled = conv(pooling @ x @ pooling.mT).relu()
            mixed = F.conv2d(pooled, taps)  # [B, 3 * 3 * 100, n, n]
            batch, width = x.shape[0], conv.out_channels
            mixed = mixed.reshape(batch, 3, 3, width, level, level).permute(0, 3, 1, 4, 2, 5)
            mixed = mixed.reshape(batch, width, 3 * level, 3 * level)
            spread = _shifted_upsampling(level, side).to(x)  # [side, 3 * level]
            total = total + spread @ mixed @ spread.mT
        return total


class UpsamplingConv(nn.Module):
    """Nearest x2 upsampling and a 3x3 convolution as four 2x2 convolutions of the small map: 9/4 less work."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()

    # forms are measured below


def _upsampling_conv(conv: nn.Conv2d) -> nn.Module:
    return FORMS[FORM](conv)


def _transposed(conv):
    """Transposed 4x4 stride 2 pad 1 kernel equal to up2 + conv3x3."""
    weight = conv.weight
    # along one axis: transposed kernel tap t (0..3): output 2i-1+t gets input i
    # out[2i] = w0 x[i-1] + (w1 + w2) x[i]; out[2i+1] = (w0 + w1) x[i] + w2 x[i+1]
    # output o = 2i - 1 + t: t=1 -> out[2i] : w1+w2 ; t=2 -> out[2i+1]: w0+w1 ; t=0 -> out[2i-1] = out[2(i-1)+1]: w2; t=3 -> out[2(i+1)]: w0
    spread = torch.tensor([[0, 0, 1.0], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    kernel = torch.einsum("ta,ub,oiab->iotu", spread, spread, weight)
    up = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1)
    up.weight.copy_(kernel)
    up.bias.copy_(conv.bias)
    return up


class Phases4(nn.Module):
    def __init__(self, conv):
        super().__init__()
        # phase p: taps over x[i-1+p], x[i+p]
        sp = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        k = torch.einsum("pta,qub,oiab->pqoitu", sp, sp, conv.weight)
        self.ws = nn.ParameterList(nn.Parameter(k[p, q].contiguous()) for p in (0, 1) for q in (0, 1))
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x):
        outs = []
        for p in (0, 1):
            for q in (0, 1):
                xp = F.pad(x, (1 - q, q, 1 - p, p))
                outs.append(F.conv2d(xp, self.ws[2 * p + q], self.bias))
        b, c, h, w = outs[0].shape
        y = torch.stack(outs, 2).reshape(b, c * 4, h, w)
        return F.pixel_shuffle(y, 2)


class OneConv(nn.Module):
    def __init__(self, conv):
        super().__init__()
        sp = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        k = torch.einsum("pta,qub,oiab->pqoitu", sp, sp, conv.weight)
        o = conv.out_channels
        self.o = o
        self.conv = nn.Conv2d(conv.in_channels, 4 * o, 2, padding=1)
        self.conv.weight.copy_(k.reshape(4 * o, *k.shape[3:]))
        self.conv.bias.copy_(conv.bias.repeat(4))

    def forward(self, x):
        y = self.conv(x)
        o = self.o
        h, w = x.shape[-2:]
        ph = [y[:, (2 * p + q) * o : (2 * p + q + 1) * o, p : p + h, q : q + w] for p in (0, 1) for q in (0, 1)]
        b = x.shape[0]
        y = torch.stack(ph, 2).reshape(b, o * 4, h, w)
        return F.pixel_shuffle(y, 2)


class Plain(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = _conv(conv)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


import os
FORM = os.environ.get("FORM", "t")
FORMS = {"t": _transposed, "p4": Phases4, "one": OneConv, "plain": Plain}


def _to_pixels(image: Tensor) -> Tensor:
    """[B, 3, R, R] in [-1, 1] -> [B, R, R, 3] uint8. The cast comes last: TensorRT has uint8 only at a network's end."""
    return ((image + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)


def _object_map(masks: Tensor) -> Tensor:
    """The slot with the strongest mask at each pixel; none where every mask rounds to zero. [B, R, R] uint8."""
    strongest, owner = masks.max(1)
    return torch.where(strongest * 255 > 0.5, owner, NO_OBJECT).to(torch.uint8)


def _shares(masks: Tensor) -> Tensor:
    """[B, O, H, W] -> [B, O + 1, H * W]: each object's share of the pixel, and the constant slot's ones."""
    masks = masks.flatten(2)
    total = masks.sum(1, keepdim=True)
    return torch.cat([masks / (total + ISLA_EPS), torch.ones_like(total)], 1)


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone())


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch norm in evaluation mode amounts to, each [C]."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and norm.running_mean is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return scale.float(), shift.float()


def _linear(layer: nn.Linear) -> nn.Linear:
    """Copy with the spectral norm folded in."""
    copy = nn.Linear(layer.in_features, layer.out_features)
    copy.weight.copy_(layer.weight)
    copy.bias.copy_(layer.bias)
    return copy


def _conv(layer: nn.Module, affine: tuple[Tensor, Tensor] | None = None) -> nn.Conv2d:
    """Copy with the spectral norm, and the affine map that follows, folded in."""
    assert isinstance(layer, nn.Conv2d)
    scale, shift = affine or (torch.ones(layer.out_channels), torch.zeros(layer.out_channels))
    copy = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
    copy.weight.copy_(layer.weight * scale.view(-1, 1, 1, 1))
    copy.bias.copy_(shift if layer.bias is None else layer.bias * scale + shift)
    return copy


def _resize_matrix(source: int, target: int) -> Tensor:
    """[target, source]: bilinear resizing along one axis, half-pixel centres."""
    return resize(torch.eye(source).view(1, source, source, 1).expand(-1, -1, -1, target), target)[0, :, :, 0].mT if False else F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=False)[0].mT


def _pooling_matrix(source: int, target: int) -> Tensor:
    """[target, source]: adaptive average pooling along one axis."""
    return F.adaptive_avg_pool1d(torch.eye(source)[None], target)[0].mT


def _shifted_upsampling(source: int, target: int) -> Tensor:
    """[target, 3 * source]: bilinear upsampling with aligned corners, shifted by -1, 0 and 1 with zeros outside."""
    up = F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=True)[0].mT
    padded = F.pad(up, (0, 0, 1, 1))
    return torch.cat([padded[shift : shift + target] for shift in range(3)], 1)
