"""Colours of classes: a label has the same colour in every picture, and 184 classes can be told apart.

Labels of the built-in vocabularies take their colours one after another, each as far as it can be from those before it
in OKLab, where equal distances look equally different. Those that have a colour in nature, such as grass, take one
near it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lostgan_serve.vocabulary import BUILT_IN_NAMES, BUNDLED_VOCABULARY, IMAGE_LABEL_NAME, Vocabulary

Color = tuple[int, int, int]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
INK, PAPER = (20, 22, 26), (250, 250, 247)
"""The colours of text and of the paper that pictures stand on."""
_BACKGROUND = (128, 128, 128)

_NATURAL = {
    "sky": "58aaf0",
    "mountain": "7d7068",
    "hill": "93b356",
    "forest": "1d6b3b",
    "sea": "1f63a8",
    "lake": "3fc0cf",
    "grass": "58b347",
    "field": "c9b83a",
    "sand": "e8c88c",
    "snow": "dfeaf2",
    "road": "55585f",
    "sun": "ffb000",
    "moon": "f2efb0",
    "cloud": "b9c3cf",
    "tree": "2f8f3a",
    "pine": "0e5248",
    "bush": "7f8f1f",
    "flower": "e0409a",
    "rock": "8f8a94",
    "house": "b5533a",
    "lighthouse": "f2788c",
    "car": "2c3fb8",
    "boat": "f0762a",
    "person": "d93a2b",
    "bird": "8a5cd6",
    "balloon": "a01c7a",
}
_LEVELS = np.arange(0, 256, 15)  # of each channel of the colours to choose from
_LIGHTNESS = (0.28, 0.95)  # of these colours: neither the map's black, which is no object, nor paper
_APART = 0.055  # of a natural colour from others
_SCALE = 1000  # OKLab is rounded to this, so that every platform chooses alike

_SHADES = 4
_SHADE = 0.17  # of the way to black or white, from one object of a class to the next

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@lru_cache(maxsize=4096)
def color_of(label: str) -> Color:
    """The colour of a class. "sky-other" is sky; labels of other vocabularies have a colour by their hash."""
    name = label.removesuffix("-other")
    if found := _colors_of_built_in().get(name):
        return found
    colors, _ = _choice()
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return _color(colors[number % len(colors)])


def object_colors(labels: Iterable[str]) -> list[Color]:
    """A colour for each object of a layout: its class's own for the first of a class, shades of it for others."""
    seen = Counter[str]()
    colors = []
    for label in labels:
        colors.append(_shade(color_of(label), seen[label]))
        seen[label] += 1
    return colors


@lru_cache(maxsize=4096)
def text_on(color: Color) -> Color:
    """Black or white, whichever is more legible on a colour: its contrast is at least 4.5, as WCAG asks."""
    luminance = float(_linear(np.array(color)) @ (0.2126, 0.7152, 0.0722))
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def oklab(colors: npt.ArrayLike) -> Floats:
    """Colours [..., 3] in levels of 255 sRGB, in OKLab: lightness in [0, 1], then green to red and blue to yellow."""
    cones = _linear(np.asarray(colors)) @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: Floats = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab


def _linear(colors: npt.NDArray[np.generic]) -> Floats:
    """Levels of sRGB as shares of light."""
    shares = colors.astype(np.float64) / 255
    light: Floats = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return light


@lru_cache(maxsize=1)
def _colors_of_built_in() -> dict[str, Color]:
    """The colour of each label of the built-in vocabularies, the bundled one's first."""
    colors, places = _choice()
    vocabularies = [Vocabulary.built_in(name) for name in (BUNDLED_VOCABULARY, *BUILT_IN_NAMES)]
    names = dict.fromkeys(label.removesuffix("-other") for vocabulary in vocabularies for label in vocabulary)
    taken = _places([BLACK, PAPER, _BACKGROUND])
    distances = np.min([_distances(places, place) for place in taken], axis=0)
    found = {IMAGE_LABEL_NAME: _BACKGROUND}
    for name in sorted(names, key=lambda name: name not in _NATURAL):
        if natural := _NATURAL.get(name):
            away = _distances(places, _places([tuple(bytes.fromhex(natural))])[0])
            away[distances < (_APART * _SCALE) ** 2] = away.max()
            best = int(away.argmin())
        else:
            best = int(distances.argmax())
        found[name] = _color(colors[best])
        distances = np.minimum(distances, _distances(places, places[best]))
    return found


@lru_cache(maxsize=1)
def _choice() -> tuple[Ints, Ints]:
    """The colours to choose from, [n, 3] levels, and their places in OKLab, [n, 3] in thousandths."""
    colors = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(-1, 3).astype(np.int64)
    places = _places(colors)
    low, high = (bound * _SCALE for bound in _LIGHTNESS)
    chosen = (low <= places[:, 0]) & (places[:, 0] <= high)
    return colors[chosen], places[chosen]


def _places(colors: npt.ArrayLike) -> Ints:
    places: Ints = np.rint(oklab(colors) * _SCALE).astype(np.int64)
    return places


def _distances(places: Ints, place: Ints) -> Ints:
    """The squares of the distances."""
    squares: Ints = ((places - place) ** 2).sum(1)
    return squares


def _color(levels: Sequence[int] | Ints) -> Color:
    red, green, blue = (int(level) for level in levels)
    return red, green, blue


@lru_cache(maxsize=4096)
def _shade(color: Color, number: int) -> Color:
    """The colour of an object before which its class has this number of others: darker, or lighter if it is dark."""
    share = _SHADE * (number % _SHADES)
    towards = text_on(color)
    return _color([round((1 - share) * level + share * end) for level, end in zip(color, towards, strict=True)])
