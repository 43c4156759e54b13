"""A canvas that knows which object owns each pixel. Positions and lengths are shares of the canvas; y points down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats: TypeAlias = npt.NDArray[np.float32]
Point: TypeAlias = tuple[float, float]
Color: TypeAlias = Sequence[float] | npt.NDArray[np.floating[Any]]
"""Red, green and blue in [0, 1]."""

NOBODY = -1


@dataclass(frozen=True)
class Light:
    """The light of a scene. tint: what white looks like. haze: the colour of distance. side: where light comes from, -1
    (left) to 1. strength: of the difference between light and shade, 0 to 1."""

    tint: Color
    haze: Color
    side: float
    strength: float


@dataclass
class Canvas:
    """Colours and owners, supersampled. Every element is painted over what was painted before it.

    In all shapes depth is 0 near and 1 at the horizon, where haze is thickest, and shade is how much the side away from
    the light darkens.
    """

    side: int
    light: Light
    rng: np.random.Generator
    labels: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.colors: Floats = np.zeros((self.side, self.side, 3), np.float32)
        self.owners = np.full((self.side, self.side), NOBODY, np.int16)

    def start(self, label: str) -> None:
        """Begin a new object, which owns all that is drawn from here on."""
        self.labels.append(label)

    # Shapes

    def polygon(self, points: Sequence[Point], color: Color, *, depth: float = 0.0, shade: float = 0.0) -> None:
        """Fill a polygon."""
        self._shape(points, 1, lambda pen, at: pen.polygon(at, fill=1), color, depth, shade)

    def box(
        self, left: float, top: float, right: float, low: float, color: Color, *, depth: float = 0.0, shade: float = 0.0
    ) -> None:
        """Fill a rectangle."""
        self.polygon([(left, low), (right, low), (right, top), (left, top)], color, depth=depth, shade=shade)

    def trapezoid(
        self,
        x: float,
        low: tuple[float, float],
        high: tuple[float, float],
        color: Color,
        *,
        depth: float = 0.0,
        shade: float = 0.0,
    ) -> None:
        """Fill a trapezoid that is symmetric about x. low, high: y and half the width of its two ends."""
        (y0, half0), (y1, half1) = low, high
        corners = [(x - half0, y0), (x + half0, y0), (x + half1, y1), (x - half1, y1)]
        self.polygon(corners, color, depth=depth, shade=shade)

    def ellipse(self, center: Point, radii: Point, color: Color, *, depth: float = 0.0, shade: float = 0.0) -> None:
        """Fill an ellipse."""
        (x, y), (rx, ry) = center, radii
        corners = ((x - rx, y - ry), (x + rx, y + ry))
        self._shape(corners, 1, lambda pen, at: pen.ellipse((*at[0], *at[1]), fill=1), color, depth, shade)

    def line(self, points: Sequence[Point], width: float, color: Color, *, depth: float = 0.0) -> None:
        """Draw a line through points."""
        pixels = max(1, round(width * self.side))
        pad = width * self.side / 2 + 1
        self._shape(points, pad, lambda pen, at: pen.line(at, 1, pixels, "curve"), color, depth, 0)

    def fill(self, mask: npt.NDArray[Any], colors: npt.NDArray[Any], *, owned: bool = True) -> None:
        """Blend in colours [S, S, 3], or ones that broadcast to that, by a mask in [0, 1]; the object owns what is
        covered by more than half."""
        mask = np.broadcast_to(mask, self.owners.shape)
        rows = np.flatnonzero(mask.any(1))
        if not len(rows):
            return
        area = slice(rows[0], rows[-1] + 1)
        shown = np.broadcast_to(colors, self.colors.shape)[area]
        self.colors[area] += mask[area, :, None].astype(np.float32) * (shown - self.colors[area])
        if owned:
            self.owners[area][mask[area] > 0.5] = len(self.labels) - 1

    # What elements are made of

    @property
    def grid(self) -> tuple[Floats, Floats]:
        """x and y of the pixels, [1, S] and [S, 1]."""
        at = (np.arange(self.side, dtype=np.float32) + 0.5) / self.side
        return at[None, :], at[:, None]

    def distance(self, center: Point, radius: float) -> Floats:
        """The distance of each pixel from a point, in radii: [S, S]."""
        x, y = self.grid
        return np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2) / radius

    def lit(self, color: Color, depth: float = 0.0) -> Floats:
        """A colour in this light, and hazy with distance."""
        shown = np.asarray(color, np.float32) * np.asarray(self.light.tint, np.float32)
        hazy: Floats = shown + np.float32(0.75 * depth) * (np.asarray(self.light.haze, np.float32) - shown)
        return hazy

    def noise(self, cells: int, octaves: int = 3, stretch: float = 1.0) -> Floats:
        """Smooth noise [S, S], about 0 +- 1. cells: bumps along x in the first octave. stretch: their width over their
        height. It draws the same random numbers at any size."""
        total = np.zeros((self.side, self.side), np.float32)
        for octave in range(octaves):
            across = cells * 2**octave
            down = max(2, round(across * stretch))
            grid = self.rng.standard_normal((down + 1, across + 1)).astype(np.float32)
            smooth = Image.fromarray(grid).resize((self.side, self.side), Image.Resampling.BICUBIC)
            total += np.asarray(smooth) / 2**octave
        return total

    def ridge(self, height: float, roughness: float, bumps: int) -> Floats:
        """A skyline [S]: the y of each column, `height` on average, with `bumps` and their details."""
        line = np.zeros(self.side, np.float32)
        x = np.linspace(0, 1, self.side, dtype=np.float32)
        for octave in range(5):
            knots = self.rng.standard_normal(bumps * 2**octave + 2).astype(np.float32)
            line += np.interp(x, np.linspace(0, 1, len(knots)), knots).astype(np.float32) / 2.2**octave
        return np.float32(height) + np.float32(roughness) * line

    def result(self, side_px: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        """The picture [side_px, side_px, 3], averaged, and the owner of each pixel's middle. side_px divides `side`."""
        factor = self.side // side_px
        colors = self.colors.reshape(side_px, factor, side_px, factor, 3).mean((1, 3))
        owners = self.owners[factor // 2 :: factor, factor // 2 :: factor]
        return (colors.clip(0, 1) * 255).round().astype(np.uint8), owners

    def _shape(
        self,
        points: Sequence[Point],
        pad_px: float,
        draw: Callable[[ImageDraw.ImageDraw, list[Point]], None],
        color: Color,
        depth: float,
        shade: float,
    ) -> None:
        """Paint what `draw` draws: it is given a pen for a patch around the points, and the points in that patch."""
        pixels = np.asarray(points, np.float64) * self.side
        left, top = np.floor(pixels.min(0) - pad_px).astype(int).clip(0, self.side).tolist()
        right, bottom = np.ceil(pixels.max(0) + pad_px).astype(int).clip(0, self.side).tolist()
        if right <= left or bottom <= top:
            return
        patch = Image.new("1", (right - left, bottom - top))
        draw(ImageDraw.Draw(patch), [(x - left, y - top) for x, y in pixels.tolist()])
        inside = np.asarray(patch)
        area = (slice(top, bottom), slice(left, right))
        self.colors[area][inside] = self._shaded(inside.shape, color, depth, shade)[inside]
        self.owners[area][inside] = len(self.labels) - 1

    def _shaded(self, shape: tuple[int, ...], color: Color, depth: float, shade: float) -> Floats:
        shown = np.broadcast_to(self.lit(color, depth), (*shape, 3))
        if not shade:
            return shown
        across = np.linspace(-1, 1, shape[1], dtype=np.float32) * np.float32(self.light.side)
        down = np.linspace(0.6, -0.6, shape[0], dtype=np.float32)[:, None]
        return shown * (1 + shade * self.light.strength * (across + down).clip(-1, 1) * 0.6)[..., None]
