"""Whole scenes: a place, a time of day, and what stands there, as a function of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lostgan_train.synthetic import elements as paint
from lostgan_train.synthetic.canvas import Canvas, Color, Light

LEAST_SHARE = 0.003
"""Share of the picture that an object must show to count; what is smaller, or hidden, is painted but not annotated."""


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its objects.

    image: [R, R, 3] uint8 RGB. labels: one for each object, back to front. masks: [N, R, R] bool, what is visible of
    each. kind: such as "coast".
    """

    image: npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    masks: npt.NDArray[np.bool_]
    kind: str


@dataclass(frozen=True)
class _Hour:
    """A time of day. top, bottom: the sky's colours. tint, haze, strength: see Light. sun: its colour, if any. low:
    whether the sun stands near the horizon."""

    top: Color
    bottom: Color
    tint: Color
    haze: Color
    strength: float
    sun: Color | None = None
    low: bool = False
    night: bool = False


@dataclass
class _Crowd:
    """Things that stand on the ground, of which nearer ones hide farther ones."""

    waiting: list[tuple[float, Callable[[Canvas], None]]] = field(default_factory=list)

    def add(self, element: Callable[..., None], x: float, y: float, size: float, **look: Any) -> None:
        """Paint an element. element: a function of elements.py that paints what stands at x, y."""
        self.waiting.append((y, partial(element, x=x, y=y, size=size, **look)))

    def paint(self, canvas: Canvas) -> None:
        for _, element in sorted(self.waiting, key=lambda thing: thing[0]):
            element(canvas)


_HOURS = (
    _Hour((0.30, 0.55, 0.88), (0.78, 0.89, 0.96), (1.0, 1.0, 0.98), (0.75, 0.85, 0.93), 0.8, sun=(1.0, 0.93, 0.62)),
    _Hour((0.42, 0.66, 0.90), (0.90, 0.94, 0.95), (1.0, 0.99, 0.94), (0.84, 0.90, 0.93), 0.7, sun=(1.0, 0.95, 0.70)),
    _Hour(
        (0.33, 0.36, 0.62), (0.98, 0.66, 0.42), (1.0, 0.84, 0.70), (0.92, 0.66, 0.52), 0.9, (1.0, 0.70, 0.35), low=True
    ),
    _Hour(
        (0.62, 0.52, 0.70), (0.99, 0.80, 0.66), (0.98, 0.88, 0.84), (0.90, 0.76, 0.72), 0.7, (1.0, 0.80, 0.60), low=True
    ),
    _Hour((0.60, 0.65, 0.71), (0.82, 0.84, 0.86), (0.86, 0.88, 0.90), (0.78, 0.80, 0.83), 0.35),
    _Hour((0.04, 0.06, 0.17), (0.16, 0.20, 0.38), (0.52, 0.57, 0.78), (0.15, 0.19, 0.35), 0.6, night=True),
)
_HOUR_ODDS = (0.30, 0.20, 0.17, 0.10, 0.11, 0.12)


def draw_scene(seed: int, side_px: int) -> Scene:
    """Draw scene `seed`: the same composition at every size; what hardly shows may count at one and not at another."""
    rng = np.random.default_rng((0x5CE4E, seed))
    hour = _HOURS[rng.choice(len(_HOURS), p=_HOUR_ODDS)]
    jitter = rng.uniform(0.94, 1.06, 3)
    light = Light(tuple(np.asarray(hour.tint) * jitter), hour.haze, float(rng.choice([-1, 1])), hour.strength)
    canvas = Canvas(side_px * (3 if side_px <= 128 else 2), light, rng)
    kind = str(rng.choice(list(_KINDS)))
    _KINDS[kind](canvas, hour)
    image, owners = canvas.result(side_px)
    masks = owners[None] == np.arange(len(canvas.labels))[:, None, None]
    shown = np.flatnonzero(masks.mean((1, 2)) >= LEAST_SHARE)
    return Scene(image, tuple(canvas.labels[k] for k in shown), masks[shown], kind)


def _coast(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.34, 0.52)
    light_x = _heavens(canvas, hour, horizon)
    if rng.random() < 0.4:
        paint.hill(canvas, horizon - rng.uniform(0.06, 0.14), horizon + 0.01, _meadow(rng), 0.75)
    shore = rng.uniform(0.66, 0.86)
    paint.sea(canvas, horizon, shore, _water(rng), light_x)
    for far in np.sort(rng.uniform(0.08, 0.75, rng.integers(0, 3))):
        y = horizon + (shore - horizon) * far
        paint.boat(canvas, rng.uniform(0.1, 0.9), y, 0.13 + 0.20 * far, 0.4 * (1 - far))
    paint.ground(canvas, "sand", shore, 1.01, (0.90, 0.80, 0.58), 0.06)
    if rng.random() < 0.40:
        side = rng.choice([0.14, 0.86]) + rng.uniform(-0.06, 0.06)
        foot = shore + rng.uniform(-0.03, 0.04)
        paint.rock(canvas, side, foot + 0.03, rng.uniform(0.10, 0.17), rng.uniform(0.32, 0.46))
        paint.lighthouse(canvas, side, foot - 0.07, rng.uniform(0.40, 0.52), hour.night)
    elif rng.random() < 0.4:
        paint.rock(canvas, rng.uniform(0.1, 0.9), shore + 0.05, rng.uniform(0.08, 0.15), rng.uniform(0.18, 0.34))
    crowd = _Crowd()
    _people(crowd, rng, 2, (shore + 0.07, 0.98), horizon)
    crowd.paint(canvas)


def _mountain_lake(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.42, 0.52)
    _heavens(canvas, hour, horizon - 0.12)
    for x in rng.permutation([0.25, 0.75])[: rng.integers(1, 3)]:
        peak = (x + rng.uniform(-0.12, 0.12), horizon - rng.uniform(0.20, 0.36))
        paint.mountain(canvas, peak, rng.uniform(0.65, 1.0), horizon + 0.02, rng.random() < 0.75, 0.35)
    if rng.random() < 0.75:
        paint.forest(canvas, horizon - rng.uniform(0.0, 0.03), horizon + 0.07, 0.3)
    paint.ground(canvas, "grass", horizon + 0.01, 1.01, _meadow(rng), 0.07)
    center = (rng.uniform(0.38, 0.62), rng.uniform(0.71, 0.77))
    radii = (rng.uniform(0.30, 0.44), rng.uniform(0.09, 0.13))
    paint.lake(canvas, center, radii, _water(rng))
    crowd = _Crowd()
    if rng.random() < 0.35:
        x, y = center[0] + rng.uniform(-0.5, 0.5) * radii[0], center[1] + rng.uniform(-0.2, 0.3) * radii[1]
        crowd.add(paint.boat, x, y, rng.uniform(0.15, 0.21), depth=0.1)
    if rng.random() < 0.3:
        x, y = rng.choice([0.16, 0.84]), center[1] - radii[1] - rng.uniform(0.0, 0.03)
        crowd.add(paint.house, x, y, rng.uniform(0.15, 0.21), depth=0.15, night=hour.night)
    for _ in range(rng.integers(1, 3)):
        x = rng.choice([rng.uniform(0.02, 0.2), rng.uniform(0.8, 0.98)])
        y = rng.uniform(0.70, 0.98)
        if ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 < 1.3:
            y = center[1] + radii[1] + rng.uniform(0.03, 0.09)
        crowd.add(paint.pine, x, y, _near(y, horizon) * rng.uniform(0.75, 0.95))
    if rng.random() < 0.5:
        x, y = rng.uniform(0.2, 0.8), rng.uniform(0.93, 0.98)
        crowd.add(paint.rock, x, y, rng.uniform(0.07, 0.12), width=rng.uniform(0.16, 0.28))
    _people(crowd, rng, 1, (0.92, 0.98), horizon)
    crowd.paint(canvas)


def _street(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.48, 0.58)
    _heavens(canvas, hour, horizon)
    if rng.random() < 0.5:
        paint.hill(canvas, horizon - rng.uniform(0.05, 0.12), horizon + 0.02, _meadow(rng), 0.6)
    kerb = rng.uniform(0.70, 0.76)
    paint.ground(canvas, "grass", horizon, kerb + 0.02, _meadow(rng), 0.06)
    crowd = _Crowd()
    for x in rng.permutation([0.18, 0.5, 0.82])[: rng.integers(1, 4)]:
        x, y = x + rng.uniform(-0.05, 0.05), rng.uniform(kerb - 0.08, kerb - 0.03)
        if rng.random() < 0.62:
            crowd.add(paint.house, x, y, rng.uniform(0.24, 0.34), depth=0.05, night=hour.night)
        else:
            crowd.add(paint.tree, x, y + 0.02, rng.uniform(0.30, 0.46), depth=0.05)
    if rng.random() < 0.35:
        crowd.add(paint.bush, rng.uniform(0.1, 0.9), kerb, rng.uniform(0.06, 0.10))
    crowd.paint(canvas)
    paint.road_across(canvas, kerb)
    crowd = _Crowd()
    for x in rng.permutation([0.25, 0.72])[: rng.integers(1, 3)]:
        y = rng.uniform(kerb + 0.07, kerb + 0.17)
        crowd.add(paint.car, x + rng.uniform(-0.08, 0.08), y, rng.uniform(0.15, 0.19))
    _people(crowd, rng, 2, (kerb + 0.05, 0.98), horizon)
    crowd.paint(canvas)


def _farm(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.38, 0.52)
    _heavens(canvas, hour, horizon)
    if rng.random() < 0.7:
        paint.hill(canvas, horizon - rng.uniform(0.05, 0.13), horizon + 0.02, _meadow(rng), 0.55)
    if rng.random() < 0.3:
        paint.forest(canvas, horizon - 0.01, horizon + 0.05, 0.45)
    crop = rng.integers(3)
    color = ((0.86, 0.72, 0.32), (0.52, 0.64, 0.24), (0.50, 0.36, 0.24))[crop]
    furrow = ((0.66, 0.52, 0.20), (0.33, 0.44, 0.16), (0.34, 0.23, 0.15))[crop]
    start = horizon
    if rng.random() < 0.6:
        paint.ground(canvas, "grass", horizon, 1.01, _meadow(rng), 0.06)
        start = horizon + rng.uniform(0.10, 0.18)
    paint.field(canvas, start, color, furrow, rng.uniform(0.2, 0.8))
    crowd = _Crowd()
    if rng.random() < 0.7:
        x, y = rng.uniform(0.15, 0.85), start + rng.uniform(0.0, 0.05)
        crowd.add(paint.house, x, y, rng.uniform(0.18, 0.28), depth=0.2, night=hour.night)
    for x in _spread(rng, rng.integers(1, 3)):
        y = rng.uniform(start + 0.03, 0.9)
        size = _near(y, horizon) * rng.uniform(0.55, 0.75)
        if rng.random() < 0.7:
            crowd.add(paint.tree, x, y, size, depth=0.25 * (1 - y))
        else:
            crowd.add(paint.bush, x, y, 0.28 * size, depth=0.25 * (1 - y))
    _flowers(crowd, rng, 0.86)
    _people(crowd, rng, 1, (0.75, 0.97), horizon)
    crowd.paint(canvas)


def _winter(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.42, 0.54)
    _heavens(canvas, hour, horizon - 0.08)
    if rng.random() < 0.6:
        peak = (rng.uniform(0.2, 0.8), horizon - rng.uniform(0.20, 0.34))
        paint.mountain(canvas, peak, rng.uniform(0.7, 1.1), horizon + 0.04, True, 0.4)
    if rng.random() < 0.5:
        paint.forest(canvas, horizon - 0.01, horizon + 0.06, 0.4)
    paint.ground(canvas, "snow", horizon + 0.02, 1.01, (0.93, 0.95, 0.99), 0.02)
    crowd = _Crowd()
    vanishing, near, half = rng.uniform(0.4, 0.6), rng.uniform(0.35, 0.65), 0.0
    if rng.random() < 0.4:
        half = rng.uniform(0.20, 0.27)
        paint.road_ahead(canvas, horizon + 0.03, vanishing, near, 2 * half)
        if rng.random() < 0.6:
            t = rng.uniform(0.35, 0.7)
            x, y = vanishing + (near - vanishing) * t, horizon + 0.03 + (0.97 - horizon) * t
            crowd.add(paint.car, x, y, 0.09 + 0.10 * t)
    if rng.random() < 0.55:
        x, y = rng.choice([0.2, 0.8]) + rng.uniform(-0.06, 0.06), horizon + 0.14
        crowd.add(paint.house, x, y, rng.uniform(0.20, 0.30), depth=0.1, night=hour.night)
    for _ in range(rng.integers(1, 5)):
        y = rng.uniform(horizon + 0.12, 0.98)
        t = (y - horizon - 0.03) / (0.97 - horizon)
        middle, verge = vanishing + (near - vanishing) * t, half * t + 0.04
        x = rng.choice([rng.uniform(0.0, min(0.3, middle - verge)), rng.uniform(max(0.7, middle + verge), 1.0)])
        size = _near(y, horizon) * rng.uniform(0.7, 0.95)
        crowd.add(paint.pine, x, y, size, depth=0.2 * (1 - y), snowy=True)
    _people(crowd, rng, 1, (0.8, 0.98), horizon)
    crowd.paint(canvas)


def _balloons(canvas: Canvas, hour: _Hour) -> None:
    rng, horizon = canvas.rng, canvas.rng.uniform(0.66, 0.78)
    _heavens(canvas, hour, horizon)
    for x in rng.permutation([0.2, 0.5, 0.8])[: rng.integers(1, 4)]:
        size = rng.uniform(0.18, 0.42)
        y = rng.uniform(0.5 * size + 0.03, horizon - 0.10 - 0.4 * size)
        paint.balloon(canvas, (x + rng.uniform(-0.08, 0.08), y), size)
    if rng.random() < 0.7:
        paint.hill(canvas, horizon - rng.uniform(0.05, 0.13), horizon + 0.02, _meadow(rng), 0.5)
    paint.ground(canvas, "grass", horizon, 1.01, _meadow(rng), 0.07)
    if rng.random() < 0.35:
        vanishing = rng.uniform(0.3, 0.7)
        paint.road_ahead(canvas, horizon, vanishing, vanishing + rng.uniform(-0.25, 0.25), rng.uniform(0.3, 0.5))
    crowd = _Crowd()
    _flowers(crowd, rng, 0.9)
    for x in _spread(rng, rng.integers(0, 3)):
        y = rng.uniform(horizon + 0.05, 0.97)
        crowd.add(paint.bush, x, y, rng.uniform(0.06, 0.11))
    _people(crowd, rng, 2, (horizon + 0.1, 0.98), horizon - 0.15)
    crowd.paint(canvas)


_KINDS: dict[str, Callable[[Canvas, _Hour], None]] = {
    "coast": _coast,
    "mountain lake": _mountain_lake,
    "street": _street,
    "farm": _farm,
    "winter": _winter,
    "balloons": _balloons,
}


def _heavens(canvas: Canvas, hour: _Hour, horizon: float) -> float | None:
    """Sky, and what is in it. Returns the x of the sun or moon, if it shows.

    The layout decides the light, or no network could learn it: every night has a moon, a low sun always shows, a high
    sun shows or is out of the picture, and two clouds without a sun mean a grey day.
    """
    rng = canvas.rng
    paint.sky(canvas, hour.top, hour.bottom, horizon + 0.03)
    clouds, places = int(rng.integers(0, 3)), np.array([0.2, 0.55, 0.85])
    light_x = None
    if hour.night or hour.low or (hour.sun is not None and rng.random() < 0.55):
        light_x = float(0.5 + canvas.light.side * rng.uniform(0.08, 0.38))
        heights = (0.55, 0.72) if hour.low else (0.25, 0.42)
        place, radius = (light_x, max(0.10, rng.uniform(*heights) * horizon)), rng.uniform(0.055, 0.085)
        if hour.sun is not None:
            paint.sun(canvas, place, radius, hour.sun)
        else:
            paint.moon(canvas, place, radius, rng.random() < 0.6)
        places = places[np.abs(places - light_x) > 0.25]  # a cloud would hide it
    else:
        clouds = min(clouds, 1) if hour.sun is not None else 2
    for x in rng.permutation(places)[:clouds]:
        place = (x + rng.uniform(-0.1, 0.1), rng.uniform(0.09, max(0.1, 0.55 * horizon)))
        paint.cloud(canvas, place, rng.uniform(0.22, 0.46))
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 3)):
            place = (rng.uniform(0.1, 0.9), rng.uniform(0.10, max(0.12, 0.7 * horizon)))
            paint.bird(canvas, place, rng.uniform(0.14, 0.21))
    return light_x


def _people(crowd: _Crowd, rng: np.random.Generator, most: int, ground: tuple[float, float], horizon: float) -> None:
    """Add up to `most` people whose feet are in that range of y."""
    count = rng.integers(0, most + 1)
    for x, y in zip(_spread(rng, count), rng.uniform(*ground, count), strict=True):
        crowd.add(paint.person, x, y, _near(y, horizon) * rng.uniform(0.47, 0.58))


def _flowers(crowd: _Crowd, rng: np.random.Generator, highest: float) -> None:
    count = rng.integers(0, 3)
    for x, y in zip(_spread(rng, count), rng.uniform(highest, 0.99, count), strict=True):
        crowd.add(paint.flower, x, y, rng.uniform(0.13, 0.20))


def _spread(rng: np.random.Generator, count: int) -> list[float]:
    """Up to four places from left to right, in any order, that keep clear of each other."""
    return [float(x + rng.uniform(-0.07, 0.07)) for x in rng.permutation([0.14, 0.38, 0.62, 0.86])[:count]]


def _near(y: float, horizon: float) -> float:
    """Perspective: how large things are that stand at y, from 0.18 at the horizon to 0.80 at the lower edge."""
    return float(0.18 + 0.62 * (y - horizon) / (1 - horizon))


def _meadow(rng: np.random.Generator) -> Color:
    return (rng.uniform(0.30, 0.48), rng.uniform(0.48, 0.62), rng.uniform(0.20, 0.28))


def _water(rng: np.random.Generator) -> Color:
    return (rng.uniform(0.10, 0.22), rng.uniform(0.36, 0.52), rng.uniform(0.52, 0.66))
