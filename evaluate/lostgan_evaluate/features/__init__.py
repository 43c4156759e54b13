"""Networks that turn images into features, from local weights alone."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Extractor(Protocol):
    """A network that was trained on real images.

    name: as scores name it, such as "efficientnet_lite0". version: of its weights, a part of cached features' names.
    side_px: it is given images of this side; None for images as they are, which it resizes itself. batch: images at a
    time.
    """

    name: str
    version: str
    side_px: int | None
    batch: int

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, S, S] uint8 RGB -> "features" [B, D] float32 and, where the network classifies, "logits"
        [B, classes] float32."""
        ...
