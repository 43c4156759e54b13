"""Seeds to style codes: the same on every platform and in every release.

A code is a function of a seed and a name alone. Bits come from SHAKE-256 and become standard normals through the
inverse distribution function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lostgan_serve.contract import Z_DIM
from lostgan_serve.layout import Layout
from lostgan_serve.normals import inverse_normal
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

Float32 = npt.NDArray[np.float32]

_STREAM = b"lostgan-serve style code 1"


@dataclass(frozen=True)
class StyleCodes:
    """The style codes of one layout.

    image: [128] float32. objects: [n, 128] float32, in the order of the layout's objects. background: [128] float32, of
    the background object of vocabularies that have one.
    """

    image: Float32
    objects: Float32
    background: Float32


def style_codes(layouts: Sequence[Layout]) -> list[StyleCodes]:
    """The style codes of layouts. A code depends on its object's seed (or else the layout's), its id and the truncation
    alone: no other object, and no other layout, changes it."""
    streams = [stream for layout in layouts for stream in _streams(layout)]
    codes = iter(_codes(streams))
    drawn = [[next(codes) for _ in range(len(layout.objects) + 2)] for layout in layouts]
    return [
        StyleCodes(image, np.array(objects, np.float32).reshape(-1, Z_DIM), background)
        for image, background, *objects in drawn
    ]


class _Stream(NamedTuple):
    """A source of random numbers. role keeps the image's code apart from the objects'."""

    role: Literal["image", "object"]
    seed: int
    name: str
    truncation: float

    def bits(self, draw: int) -> bytes:
        """8 bytes for each element of a code, in the draw of this number."""
        words = (_STREAM, self.role.encode(), str(self.seed).encode(), str(draw).encode(), self.name.encode())
        return hashlib.shake_256(b"\0".join(words)).digest(8 * Z_DIM)


def _streams(layout: Layout) -> list[_Stream]:
    """The image's, the background's and each object's."""
    image = _Stream("image", layout.seed, "", layout.truncation)
    background = _Stream("object", layout.seed, IMAGE_LABEL_NAME, layout.truncation)
    objects = [
        _Stream("object", layout.seed if item.seed is None else item.seed, item.id, layout.truncation)
        for item in layout.objects
    ]
    return [image, background, *objects]


def _codes(streams: Sequence[_Stream]) -> list[Float32]:
    """A code for each stream: [128] float32, standard normal, redrawn while beyond +-truncation.

    Elements within the bounds do not depend on the truncation. All codes are computed together: one by one, the many
    small operations took a sixth of the time of a 128 px image.
    """
    codes = np.full((len(streams), Z_DIM), np.inf)
    bounds = np.array([[stream.truncation] for stream in streams])
    draw = 0
    while (rejected := np.abs(codes) > bounds).any():
        rows = np.flatnonzero(rejected.any(1))
        digests = b"".join(streams[row].bits(draw) for row in rows)
        bits = np.frombuffer(digests, "<u8").reshape(len(rows), Z_DIM)[rejected[rows]]
        codes[rejected] = inverse_normal(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
        draw += 1
    return list(codes.astype(np.float32))
