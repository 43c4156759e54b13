"""The adversarial losses of section 2.2.5, and those on styles and masks. B images, O slots, N judged objects."""

from __future__ import annotations

import torch
from torch import Tensor

from lostgan_serve.contract import IMAGE_LABEL
from lostgan_train.networks.discriminator import Scores

_LEAST_DIFFERENCE = 0.01
"""Added to a difference, of pixels in [-1, 1], so that the loss is bounded."""


def discriminator_loss(
    real: Scores, fake: Scores, weights: Tensor, image_weight: float, object_weight: float
) -> Tensor:
    """Equation 14 as a mean over images; weights: [B, O], the p_i of equation 15, 1 for annotated objects."""
    on_image = (1 - real.image).relu().mean() + (1 + fake.image).relu().mean()
    on_objects = sum(
        _per_image(values.relu() * weights[scores.slots[:, 0], scores.slots[:, 1]].unsqueeze(1), scores)
        for values, scores in ((1 - real.objects, real), (1 + fake.objects, fake))
    )
    return image_weight * on_image + object_weight * on_objects


def adversarial_loss(fake: Scores, image_weight: float, object_weight: float) -> Tensor:
    """-P_D of equation 11 as a mean over images. Detection probabilities do not weigh it: equation 15 rewrites the
    discriminator's loss alone."""
    return -image_weight * fake.image.mean() - object_weight * _per_image(fake.objects, fake)


def diversity_loss(images: Tensor, others: Tensor) -> Tensor:
    """The inverse of how much two styles of each layout differ, as a mean over layouts: the mode seeking loss (Mao et
    al., 2019), for codes that are drawn alike. It pulls the less, the more they differ.

    images, others: [B, 3, R, R] in [-1, 1].
    """
    return (1 / ((images - others).abs().mean((1, 2, 3)) + _LEAST_DIFFERENCE)).mean()


def mask_loss(masks: Tensor, labels: Tensor, owners: Tensor) -> Tensor:
    """1 - IoU of masks with the pixels that objects truly own, as a mean over objects, so that small ones count as much
    as the sky. Not in the paper, whose masks learn from the image alone.

    masks: [B, O, S, S] in [0, 1]; the IoU is that of fuzzy sets. labels: [B, O] int64; empty slots do not count.
    owners: [B, S, S] integers, the slot of each pixel's object, -1 where it is not known: such pixels do not count, nor
    do objects that own no pixel.
    """
    own = torch.arange(masks.shape[1], device=masks.device)[:, None, None] == owners.unsqueeze(1)
    levels = masks.float() * (owners >= 0).unsqueeze(1)
    both = (levels * own).sum((2, 3))
    either = levels.sum((2, 3)) + own.sum((2, 3)) - both
    counted = (labels != IMAGE_LABEL) & own.any(3).any(2)
    return ((1 - both / either.clamp(min=1)) * counted).sum() / counted.sum().clamp(min=1)


def _per_image(values: Tensor, scores: Scores) -> Tensor:
    """Mean over images of the mean over each image's objects; values: [N, 1]."""
    batch = len(scores.image)
    image = scores.slots[:, 0]
    counts = torch.bincount(image, minlength=batch)[image].to(values.dtype)
    return (values.flatten() / counts).sum() / batch
