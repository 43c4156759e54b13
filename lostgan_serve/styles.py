"""Seeds to style codes: the same on every platform and in every release.

A code is a function of a seed and a name alone. Bits come from SHAKE-256 and become standard normals through the
inverse distribution function. Two codes are mixed with operations alone that IEEE 754 rounds correctly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lostgan_serve.contract import Z_DIM
from lostgan_serve.layout import Code, Layout, Mix
from lostgan_serve.normals import Float64, inverse_normal
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

Float32 = npt.NDArray[np.float32]

_STREAM = b"lostgan-serve style code 1"

_HALVINGS = 50  # of the angle between two codes: 2^-50 of it is below what float32 shows


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
    """The style codes of layouts. A code depends on its object's seed or style (or else the layout's), its id and the
    truncation alone: no other object, and no other layout, changes it."""
    wanted = [one for layout in layouts for one in _wanted(layout)]
    found = iter(_codes([stream for one in wanted for stream in one.streams()]))
    codes = iter([one.code(found).astype(np.float32) for one in wanted])
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


class _Wanted(NamedTuple):
    """A code to find. style: a seed, or what stands in its place."""

    role: Literal["image", "object"]
    style: int | Mix | Code
    name: str
    truncation: float

    def streams(self) -> list[_Stream]:
        """The streams whose codes it is made of."""
        style = self.style
        seeds = [style] if isinstance(style, int) else [style.start, style.end] if isinstance(style, Mix) else []
        return [_Stream(self.role, seed, self.name, self.truncation) for seed in seeds]

    def code(self, found: Iterator[Float64]) -> Float64:
        """The code, made of those of its streams, which are the next of `found`."""
        if isinstance(self.style, Code):
            return np.array(self.style.values)
        if isinstance(self.style, Mix):
            return mixed(next(found), next(found), self.style)
        return next(found)


def _wanted(layout: Layout) -> list[_Wanted]:
    """The image's, the background's and each object's."""
    style = layout.seed if layout.style is None else layout.style
    image = _Wanted("image", style, "", layout.truncation)
    background = _Wanted("object", style, IMAGE_LABEL_NAME, layout.truncation)
    objects = [
        _Wanted("object", item.seed if item.seed is not None else item.style or style, item.id, layout.truncation)
        for item in layout.objects
    ]
    return [image, background, *objects]


def _codes(streams: Sequence[_Stream]) -> list[Float64]:
    """A code for each stream: [128] float64, standard normal, redrawn while beyond +-truncation.

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
    return list(codes)


def mixed(start: Float64, end: Float64, mix: Mix) -> Float64:
    """A code between two, [128] float64: these themselves at shares 0 and 1.

    On the linear path elements change evenly (figure 12 of the paper). On the spherical one the direction does, and
    the length changes evenly, too, so that codes half-way are as long as others.
    """
    if mix.share in (0.0, 1.0) or mix.path == "linear":
        return (1.0 - mix.share) * start + mix.share * end
    lengths = [math.sqrt(_dot(code, code)) for code in (start, end)]
    first, second = _turned(_dot(start, end) / (lengths[0] * lengths[1]), mix.share)
    length = (1.0 - mix.share) * lengths[0] + mix.share * lengths[1]
    return first * length / lengths[0] * start + second * length / lengths[1] * end


def _turned(cosine: float, share: float) -> tuple[float, float]:
    """The weights of two unit vectors in the one that stands at `share` of the angle between them.

    The angle is halved over and over, by sums and square roots, since no two mathematics libraries have the same last
    digit of a sine.
    """
    low, high = (1.0, 0.0), (0.0, 1.0)
    for _ in range(_HALVINGS):
        x, y = low[0] + high[0], low[1] + high[1]
        length = math.sqrt(x * x + y * y + 2.0 * x * y * cosine)
        middle = (x / length, y / length)
        share *= 2.0
        low, high = (middle, high) if share >= 1.0 else (low, middle)
        share -= share >= 1.0
    return low


def _dot(a: Float64, b: Float64) -> float:
    return math.fsum((a * b).tolist())  # rounded once, in whatever order a machine adds
