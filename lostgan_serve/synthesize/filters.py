"""Which generated images are good enough. Reasons are counted; a rejected image is generated again in another style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from lostgan_serve.contract import Array
from lostgan_serve.errors import require
from lostgan_serve.layout import Box
from lostgan_serve.synthesize.labelling import LabelledObject
from lostgan_serve.synthesize.recipe import Filters


class Scorer(Protocol):
    """Something that says how well objects can be recognised."""

    def scores(self, image: Array, objects: Sequence[LabelledObject]) -> list[float]:
        """A score in [0, 1] for each object. image: [R, R, 3] uint8 RGB."""
        ...


def rejection(
    image: Array, count: int, objects: Sequence[LabelledObject], filters: Filters, scorer: Scorer | None
) -> str | None:
    """Why an image is not good enough by itself; None where it is. count: the objects of its layout."""
    hidden = count > len(objects)
    if filters.agreement:
        worst = min((overlap(item.drawn_box, item.tight_box) for item in objects), default=0.0)
        if hidden or worst < filters.agreement:
            return "agreement"
    if filters.score and scorer and (hidden or min(scorer.scores(image, objects), default=0.0) < filters.score):
        return "score"
    return None


def fingerprint(image: Array) -> Any:
    """A perceptual hash of an image, 64 bits; the difference of two is their distance. Raises MissingExtraError."""
    return require("imagehash", "synthesize").phash(Image.fromarray(image))


def overlap(one: Box, other: Box) -> float:
    """The intersection over union of two boxes, x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
