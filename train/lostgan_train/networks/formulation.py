"""The choice of how the networks compute: parts that hold the same parameters under the same names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lostgan_train.networks.blocks import DiscriminatorBlock, ResBlock
from lostgan_train.networks.masks import MaskHead, PyramidPool, paste_masks
from lostgan_train.networks.norms import ISLANorm


@dataclass(frozen=True)
class Formulation:
    """Parts that the networks are built of. Formulations compute the same, up to rounding, from the same weights.

    paste_masks: maps the objects' own masks [B, O, m, m] and their boxes [B, O, 4] to masks [B, O, 64, 64].
    """

    isla_norm: type[ISLANorm] = ISLANorm
    res_block: type[ResBlock] = ResBlock
    mask_head: type[MaskHead] = MaskHead
    pyramid_pool: type[PyramidPool] = PyramidPool
    discriminator_block: type[DiscriminatorBlock] = DiscriminatorBlock
    paste_masks: Callable[[Tensor, Tensor], Tensor] = paste_masks


OURS = Formulation()
"""The formulation with the least work. The paper's is `lostgan_train.networks.reference.REFERENCE`."""
