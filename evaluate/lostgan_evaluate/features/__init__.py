"""Networks that turn images into features, from local weights alone."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Extractor(Protocol):
    """A network that was trained on real images."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        ...

    @property
    def version(self) -> str:
        """The version of its weights, on which kept features depend."""
        ...

    @property
    def side_px(self) -> int | None:
        """The side of the images that it is given; None for images as they are, which it resizes itself."""
        ...

    @property
    def batch(self) -> int:
        """Images at a time."""
        ...

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, S, S] uint8 RGB -> "features" [B, D] float32 and, where the network classifies, "logits"
        [B, classes] float32, on the CPU."""
        ...
