"""Elements of a scene: stuff that fills areas, and things with a place and a size.

Every function paints one object. x, y: the middle of a thing's foot, where it stands on the ground. size: its height.
depth: 0 near, 1 at the horizon.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from lostgan_train.synthetic.canvas import Canvas, Color, Floats, Point

_GLASS = (0.62, 0.76, 0.85)
_CREAM = (0.95, 0.94, 0.91)

# Stuff


def sky(canvas: Canvas, top: Color, bottom: Color, horizon: float) -> None:
    canvas.start("sky")
    _, y = canvas.grid
    share = (y / max(horizon, 0.05)).clip(0, 1)[..., None] ** 0.8
    colors = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    canvas.fill(np.ones((1, 1)), colors + canvas.noise(3, octaves=3, stretch=3.0)[..., None] * 0.012)


def mountain(canvas: Canvas, peak: Point, width: float, base: float, snowy: bool, depth: float) -> None:
    canvas.start("mountain")
    x, y = canvas.grid
    distance = np.abs(x[0] - peak[0]) / (width / 2)
    ridge = peak[1] + (base - peak[1]) * distance**0.85 + (canvas.ridge(0, 0.012, 5)) * (distance < 1)
    rough = canvas.noise(7, octaves=4)
    lit_side = np.clip((x - peak[0]) / width * 4 * canvas.light.side + 0.25 * rough, -1, 1)[..., None]
    colors = canvas.lit((0.44, 0.41, 0.42), depth) * (1 + 0.38 * canvas.light.strength * lit_side)
    if snowy:
        snow_line = peak[1] + (base - peak[1]) * (0.30 + 0.05 * rough)
        white = canvas.lit((0.95, 0.96, 1.0), depth * 0.6) * (1 + 0.16 * canvas.light.strength * lit_side)
        colors = np.where((y < snow_line)[..., None], white, colors)
    canvas.fill((y > ridge) & (y < base) & (distance < 1), colors)


def hill(canvas: Canvas, top: float, base: float, color: Color, depth: float) -> None:
    canvas.start("hill")
    x, y = canvas.grid
    phase, waves = canvas.rng.uniform(0, 6.3), canvas.rng.uniform(3.5, 8)
    ridge = top + 0.35 * (base - top) * (1 + np.sin(waves * x[0] + phase)) / 2 + canvas.ridge(0, 0.003, 9)
    shade = 1 + 0.10 * canvas.noise(6)[..., None] + 0.3 * ((y - ridge) / max(base - top, 0.02))[..., None] * -0.6
    canvas.fill((y > ridge) & (y < base), canvas.lit(color, depth) * shade)


def forest(canvas: Canvas, top: float, base: float, depth: float) -> None:
    canvas.start("forest")
    x, y = canvas.grid
    ridge = canvas.ridge(top, 0.008, 6)
    teeth = canvas.rng.integers(26, 44)
    heights = canvas.rng.uniform(0.35, 1.0, teeth)
    place = x[0] * (teeth - 1)
    tooth = heights[np.rint(place).astype(int)] * (1 - 1.7 * np.abs(place - np.rint(place)))
    ridge = ridge - 0.05 * tooth
    color = np.asarray((0.10, 0.27, 0.17), np.float32) + 0.03 * canvas.noise(20, 2)[..., None]
    lighter = 1 + 0.35 * (1 - ((y - ridge) / max(base - top, 0.02)).clip(0, 1))[..., None]
    canvas.fill((y > ridge) & (y < base), canvas.lit((1, 1, 1), depth) * color * lighter)


def sea(canvas: Canvas, horizon: float, base: float, color: Color, light_x: float | None) -> None:
    """The sea, with foam at the shore. light_x: where the sun or the moon is mirrored."""
    canvas.start("sea")
    x, y = canvas.grid
    near = ((y - horizon) / max(1 - horizon, 0.05)).clip(0, 1)
    colors = _water(canvas, color, near)
    if light_x is not None:
        path = np.exp(-(((x - light_x) / (0.05 + 0.16 * near)) ** 2)) * (canvas.noise(9, 3, stretch=7) > 0.35)
        colors = colors + 0.55 * path[..., None] * np.asarray(canvas.light.tint, np.float32)
    shore = canvas.ridge(base, 0.006, 3)
    canvas.fill((y > horizon) & (y < shore), colors)
    foam = np.abs(y - shore + 0.008) < 0.006 + 0.004 * canvas.noise(12, 2)
    canvas.fill(foam & (y > horizon), canvas.lit((0.96, 0.97, 0.97)), owned=False)


def lake(canvas: Canvas, center: Point, radii: Point, color: Color) -> None:
    canvas.start("lake")
    x, y = canvas.grid
    wobble = 0.06 * canvas.noise(5, 2)
    distance = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 + wobble
    near = ((y - center[1] + radii[1]) / (2 * radii[1])).clip(0, 1)
    bank = canvas.lit((0.45, 0.40, 0.30))
    canvas.fill(distance < 1, np.where((distance > 0.9)[..., None], bank, _water(canvas, color, near)))


def _water(canvas: Canvas, color: Color, near: Floats) -> Floats:
    far, close = canvas.lit(color, 0.55), canvas.lit(np.asarray(color) * 0.75)
    waves = canvas.noise(8, 3, stretch=6.0)[..., None] * (0.02 + 0.05 * near[..., None])
    colors: Floats = far + near[..., None] * (close - far) + waves
    return colors


def ground(canvas: Canvas, label: str, top: float, base: float, color: Color, grain: float) -> None:
    """Grass, sand or snow from a line downwards, with a texture that grows towards the viewer."""
    canvas.start(label)
    _, y = canvas.grid
    line = canvas.ridge(top, 0.004, 4)
    near = ((y - top) / max(1 - top, 0.05)).clip(0, 1)[..., None]
    fine = canvas.noise(40, 2, stretch=0.5 if label == "grass" else 1.5)[..., None]
    broad = canvas.noise(5, 2, stretch=2.0)[..., None]
    shade = 1 + grain * (0.4 + near) * fine + 0.8 * grain * broad - 0.10 * near
    far, close = canvas.lit(color, 0.35), canvas.lit(color)
    canvas.fill((y > line) & (y < base), (far + near * (close - far)) * shade)


def field(canvas: Canvas, top: float, color: Color, furrow: Color, vanishing_x: float) -> None:
    canvas.start("field")
    x, y = canvas.grid
    near = ((y - top) / max(1 - top, 0.05)).clip(0.02, 1)
    rows = np.sin((x - vanishing_x) / near * 34)
    stripe = (0.5 + 0.5 * rows)[..., None] * near[..., None] ** 0.25
    colors = canvas.lit(color) * (1 - 0.6 * stripe) + canvas.lit(furrow) * 0.6 * stripe
    canvas.fill(y > top, colors * (1 + 0.05 * canvas.noise(30, 2)[..., None]))


def road_ahead(canvas: Canvas, horizon: float, vanishing_x: float, near_x: float, width: float) -> None:
    """A road that runs away from the viewer."""
    canvas.start("road")
    far, near, low = 0.012, width / 2, 1.01
    edges = [(vanishing_x - far, horizon), (vanishing_x + far, horizon), (near_x + near, low), (near_x - near, low)]
    canvas.polygon(edges, (0.33, 0.33, 0.36), shade=0.2)
    for start in (0.03, 0.10, 0.22, 0.42, 0.72):
        (x0, y0, w0), (x1, y1, w1) = (
            (vanishing_x + (near_x - vanishing_x) * t, horizon + (low - horizon) * t, 0.012 * t)
            for t in (start, min(start * 1.45, 1.0))
        )
        canvas.polygon([(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)], (0.93, 0.90, 0.78))


def road_across(canvas: Canvas, top: float) -> None:
    """A road from left to right, down to the lower edge."""
    canvas.start("road")
    _, y = canvas.grid
    canvas.fill(y > top, canvas.lit((0.34, 0.34, 0.37)) * (1 + 0.05 * canvas.noise(40, 2)[..., None]))
    width = 1.01 - top
    upper, lower = top + 0.45 * width - (0.022 * width + 0.003), top + 0.45 * width + (0.022 * width + 0.003)
    offset = canvas.rng.uniform(0, 0.15)
    for k in range(-1, 8):
        left = offset + 0.16 * k
        dash = [(left, upper), (left + 0.08, upper), (left + 0.075, lower), (left - 0.005, lower)]
        canvas.polygon(dash, (0.93, 0.91, 0.82))


# Things in the sky


def sun(canvas: Canvas, center: Point, radius: float, color: Color) -> None:
    canvas.start("sun")
    bright, distance = np.asarray(color, np.float32), canvas.distance(center, radius)
    canvas.fill(np.exp(-((distance / 1.9) ** 2)) * 0.75, bright, owned=False)
    canvas.fill(distance < 1, bright * 0.45 + 0.55)


def moon(canvas: Canvas, center: Point, radius: float, crescent: bool) -> None:
    canvas.start("moon")
    distance = canvas.distance(center, radius)
    canvas.fill(np.exp(-((distance / 2.2) ** 2)) * 0.35, np.asarray((0.8, 0.84, 0.95), np.float32), owned=False)
    craters = 1 - 0.12 * (canvas.noise(24, 2) > 0.7)[..., None]
    bitten = canvas.distance((center[0] + 0.75 * radius, center[1] - 0.25 * radius), radius) <= 0.95
    canvas.fill((distance < 1) & ~(bitten & crescent), np.asarray((0.96, 0.95, 0.88), np.float32) * craters)


def cloud(canvas: Canvas, center: Point, width: float) -> None:
    canvas.start("cloud")
    x, y = canvas.grid
    body = np.full((canvas.side, canvas.side), -1, np.float32)
    for k in range(7):
        cx, cy = center[0] + (k - 3) / 3 * 0.38 * width, center[1] + canvas.rng.uniform(-0.10, 0.03) * width
        r = canvas.rng.uniform(0.14, 0.24) * (1.15 - abs(k - 3) / 4) * width
        puff = ((x - cx) / r) ** 2 + ((y - cy) / (0.72 * r)) ** 2
        body = np.maximum(body, 1.4 - puff)
    body = body + 0.16 * canvas.noise(14, 3)
    shade = ((center[1] + 0.08 * width - y) / (0.34 * width)).clip(0, 1)[..., None]
    white, grey = canvas.lit((1.0, 1.0, 1.0), 0.1), canvas.lit((0.70, 0.73, 0.80), 0.1)
    canvas.fill((body / 0.5).clip(0, 1) * (y < center[1] + 0.10 * width), grey + shade * (white - grey))


def bird(canvas: Canvas, center: Point, span: float) -> None:
    canvas.start("bird")
    (x, y), color = center, (0.13, 0.13, 0.17)
    lift = canvas.rng.uniform(0.12, 0.30) * span
    along = np.linspace(0, 1, 9)
    for side in (-1, 1):
        tips = x + side * 0.5 * span * along
        upper = y - lift * np.sin(2.4 * along) * (1 - 0.25 * along)
        lower = upper + 0.24 * span * (1 - along) ** 0.8
        canvas.polygon([*zip(tips, upper, strict=True), *zip(tips[::-1], lower[::-1], strict=True)], color)
    canvas.ellipse((x, y + 0.10 * span), (0.09 * span, 0.13 * span), color)


def balloon(canvas: Canvas, center: Point, size: float) -> None:
    canvas.start("balloon")
    (x, y), r = center, 0.36 * size
    first, second = _vivid(canvas), _vivid(canvas)
    top = y - 0.5 * size + r
    canvas.trapezoid(x, (top + 0.45 * r, 0.88 * r), (y + 0.3 * size, 0.2 * r), second, shade=0.9)
    for color, width, shade in ((first, 1.0, 0.9), (second, 0.62, 0.6), (first, 0.26, 0.3)):
        canvas.ellipse((x, top), (width * r, r), color, shade=shade)
    for side in (-1, 1):
        rope = [(x + side * 0.2 * r, y + 0.28 * size), (x + side * 0.14 * r, y + 0.42 * size)]
        canvas.line(rope, 0.012 * size, (0.2, 0.16, 0.12))
    canvas.trapezoid(x, (y + 0.39 * size, 0.2 * r), (y + 0.5 * size, 0.16 * r), (0.50, 0.33, 0.17), shade=0.6)


# Things on the ground


def tree(canvas: Canvas, x: float, y: float, size: float, depth: float) -> None:
    canvas.start("tree")
    trunk = 0.05 * size
    canvas.trapezoid(x, (y, trunk), (y - 0.5 * size, 0.6 * trunk), (0.36, 0.25, 0.16), depth=depth, shade=0.8)
    green = np.asarray(_green(canvas))
    leaves = [(0.0, -0.62), *((canvas.rng.uniform(-0.20, 0.20), canvas.rng.uniform(-0.80, -0.50)) for _ in range(9))]
    for pale, radius in ((0.72, 0.19), (1.0, 0.155), (1.25, 0.09)):
        shift, r = 0.035 * canvas.light.side * (pale - 0.72) * 2, radius * size
        for dx, dy in leaves:
            place = (x + (dx + shift) * size, y + (dy - 0.03 * pale) * size)
            canvas.ellipse(place, (r, r), green * pale, depth=depth, shade=0.5)


def pine(canvas: Canvas, x: float, y: float, size: float, depth: float = 0.0, snowy: bool = False) -> None:
    canvas.start("pine")
    canvas.trapezoid(x, (y, 0.035 * size), (y - 0.2 * size, 0.03 * size), (0.33, 0.23, 0.15), depth=depth)
    green = np.asarray((0.10, 0.33, 0.20)) * canvas.rng.uniform(0.8, 1.25)
    for k in range(4):
        low, high, half = y - (0.12 + 0.2 * k) * size, y - (0.46 + 0.18 * k) * size, (0.26 - 0.05 * k) * size
        hem = [(-1, 0), (-0.5, -0.02), (0, 0.015), (0.5, -0.02), (1, 0)]
        branches = [(x + u * half, low + v * size) for u, v in hem]
        canvas.polygon([*branches, (x, high)], green * (0.85 + 0.1 * k), depth=depth, shade=0.9)
        if snowy:
            brim = low - 0.11 * size
            cap = [(x - 0.45 * half, brim), (x, high), (x + 0.45 * half, brim), (x, low - 0.16 * size)]
            canvas.polygon(cap, (0.95, 0.97, 1.0), depth=depth, shade=0.5)


def bush(canvas: Canvas, x: float, y: float, size: float, depth: float = 0.0) -> None:
    canvas.start("bush")
    green, berry = np.asarray(_green(canvas)), _vivid(canvas)
    for k in range(6):
        dx, r = (k - 2.5) / 2.5 * 0.62, canvas.rng.uniform(0.34, 0.5) * size
        canvas.ellipse(
            (x + dx * size, y - 0.92 * r), (r, 0.95 * r), green * (0.75 + 0.1 * (k % 3)), depth=depth, shade=0.7
        )
    for _ in range(canvas.rng.integers(0, 9)):
        spot = (x + canvas.rng.uniform(-0.8, 0.8) * size, y - canvas.rng.uniform(0.2, 0.75) * size)
        canvas.ellipse(spot, (0.05 * size, 0.05 * size), berry)


def flower(canvas: Canvas, x: float, y: float, size: float) -> None:
    canvas.start("flower")
    petals, r, head = _vivid(canvas), 0.17 * size, (x + 0.03 * size, y - 0.7 * size)
    canvas.line([(x, y), (head[0], y - 0.6 * size)], 0.06 * size, (0.22, 0.47, 0.18))
    for side in (-1, 1):
        tip, notch = (x + side * 0.24 * size, y - 0.36 * size), (x + side * 0.06 * size, y - 0.28 * size)
        canvas.polygon([(x, y - 0.15 * size), tip, notch], (0.25, 0.52, 0.20))
    for k in range(6):
        angle = k * np.pi / 3 + 0.3
        place = (head[0] + 0.8 * r * np.cos(angle), head[1] + 0.8 * r * np.sin(angle))
        canvas.ellipse(place, (0.75 * r, 0.75 * r), petals, shade=0.4)
    canvas.ellipse(head, (0.6 * r, 0.6 * r), (0.97, 0.80, 0.25))


def rock(canvas: Canvas, x: float, y: float, size: float, width: float) -> None:
    canvas.start("rock")
    grey = np.asarray((0.47, 0.45, 0.44)) * canvas.rng.uniform(0.8, 1.15)
    angles = np.linspace(np.pi, 2 * np.pi, 8)
    radii = canvas.rng.uniform(0.82, 1.05, 8)
    outline = [(x + width / 2 * r * np.cos(a), y + size * r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]
    canvas.polygon(outline, grey, shade=1.0)
    crack = ((0.1 * canvas.light.side, 0.9), (0.02, 0.5), (0.12, 0.1))
    canvas.line([(x + u * width, y - v * size) for u, v in crack], 0.03 * size, grey * 0.7)
    canvas.polygon([*outline[2:5], (x, y - 0.6 * size)], grey * 1.2, shade=0.6)


def house(canvas: Canvas, x: float, y: float, size: float, depth: float, night: bool) -> None:
    canvas.start("house")
    walls = _pastel(canvas)
    roof = _one_of(canvas, (0.60, 0.22, 0.16), (0.35, 0.22, 0.18), (0.30, 0.33, 0.40), (0.72, 0.36, 0.20))
    half, eaves = size * canvas.rng.uniform(0.5, 0.66), y - 0.58 * size
    canvas.box(x - half, eaves, x + half, y, walls, depth=depth, shade=0.5)
    chimney = x + 0.45 * half
    canvas.box(chimney, eaves - 0.38 * size, chimney + 0.12 * size, eaves, np.asarray(roof) * 0.8, depth=depth)
    canvas.trapezoid(x, (eaves, 1.14 * half), (y - size, 0.62 * half), roof, depth=depth, shade=0.6)
    pane = _undimmed(canvas, (1.0, 0.83, 0.42)) if night else (0.55, 0.70, 0.82)
    frame, top, low = 0.015 * size, y - 0.45 * size, y - 0.22 * size
    for place in (-0.58, 0.58):
        left, right = x + (place - 0.2) * half, x + (place + 0.2) * half
        canvas.box(left - frame, top - frame, right + frame, low + frame, (0.95, 0.94, 0.90), depth=depth)
        canvas.box(left, top, right, low, pane, depth=depth)
    door = np.asarray(_vivid(canvas)) * 0.6
    canvas.box(x - 0.14 * half, y - 0.36 * size, x + 0.14 * half, y, door, depth=depth)


def lighthouse(canvas: Canvas, x: float, y: float, size: float, night: bool) -> None:
    canvas.start("lighthouse")
    stripe = _one_of(canvas, (0.80, 0.16, 0.16), (0.16, 0.30, 0.58), (0.15, 0.15, 0.18))
    low, high, top = 0.13 * size, 0.08 * size, y - 0.78 * size
    for k in range(5):
        lower, upper = ((y + (top - y) * share, low + (high - low) * share) for share in (k / 5, (k + 1) / 5))
        canvas.trapezoid(x, lower, upper, stripe if k % 2 else _CREAM, shade=0.9)
    canvas.box(x - 1.35 * high, top - 0.025 * size, x + 1.35 * high, top, (0.2, 0.2, 0.23))
    lamp = _undimmed(canvas, (1.0, 0.93, 0.55)) if night else (0.85, 0.90, 0.80)
    canvas.box(x - 0.8 * high, top - 0.13 * size, x + 0.8 * high, top - 0.02 * size, lamp)
    roof = top - 0.12 * size
    canvas.polygon([(x - 1.1 * high, roof), (x + 1.1 * high, roof), (x, y - size)], stripe, shade=0.6)
    canvas.box(x - 0.3 * low, y - 0.1 * size, x + 0.3 * low, y, (0.25, 0.2, 0.2))


def car(canvas: Canvas, x: float, y: float, size: float) -> None:
    canvas.start("car")
    paint, half, way, wheel = np.asarray(_vivid(canvas)), 1.15 * size, _way(canvas), 0.2 * size

    def at(*corners: Point) -> list[Point]:
        return [(x + way * u * half, y - v * size) for u, v in corners]

    canvas.polygon(at((-0.62, 0.55), (-0.42, 0.98), (0.22, 0.98), (0.52, 0.55)), paint * 0.92, shade=0.4)
    canvas.polygon(at((-0.5, 0.57), (-0.37, 0.9), (-0.10, 0.9), (-0.10, 0.57)), _GLASS)
    canvas.polygon(at((-0.04, 0.57), (-0.04, 0.9), (0.19, 0.9), (0.41, 0.57)), _GLASS)
    body = at((-1, 0.18), (-1, 0.5), (-0.9, 0.6), (0.55, 0.58), (0.95, 0.48), (1, 0.18))
    canvas.polygon(body, paint, shade=0.5)
    front, rear, *axles = at((0.95, 0.4), (-0.97, 0.4), (-0.58, 0.2), (0.58, 0.2))
    canvas.ellipse(front, (0.05 * size, 0.06 * size), (1.0, 0.95, 0.7))
    canvas.ellipse(rear, (0.04 * size, 0.06 * size), (0.8, 0.1, 0.1))
    for axle in axles:
        canvas.ellipse(axle, (wheel, wheel), (0.10, 0.10, 0.11))
        canvas.ellipse(axle, (0.5 * wheel, 0.5 * wheel), (0.75, 0.75, 0.78))


def boat(canvas: Canvas, x: float, y: float, size: float, depth: float) -> None:
    canvas.start("boat")
    hull, sail, half, way = _vivid(canvas), _pastel(canvas), 0.42 * size, _way(canvas)

    def at(*corners: Point) -> list[Point]:
        return [(x + way * u * half, y - v * size) for u, v in corners]

    canvas.line(at((0.05, 0.1), (0.05, 1.0)), 0.025 * size, (0.35, 0.25, 0.16), depth=depth)
    canvas.polygon(at((0.0, 0.24), (0.0, 0.96), (-0.8, 0.24)), (0.97, 0.96, 0.93), depth=depth, shade=0.5)
    canvas.polygon(at((0.12, 0.24), (0.12, 0.85), (0.85, 0.24)), sail, depth=depth, shade=0.5)
    canvas.polygon(at((-1.0, 0.2), (1.05, 0.22), (0.72, 0.0), (-0.75, 0.0)), hull, depth=depth, shade=0.4)
    canvas.polygon(at((-1.0, 0.2), (1.05, 0.22), (1.0, 0.17), (-0.96, 0.15)), (0.96, 0.95, 0.92), depth=depth)


def person(canvas: Canvas, x: float, y: float, size: float) -> None:
    canvas.start("person")
    skin = _one_of(canvas, (0.96, 0.80, 0.68), (0.80, 0.60, 0.45), (0.55, 0.38, 0.27), (0.38, 0.26, 0.19))
    shirt, trousers = np.asarray(_vivid(canvas)), np.asarray(_vivid(canvas)) * 0.45
    hair = _one_of(canvas, (0.12, 0.09, 0.07), (0.35, 0.22, 0.12), (0.75, 0.58, 0.30))
    stride = canvas.rng.uniform(0.03, 0.10) * size
    for side in (-1, 1):
        canvas.line([(x + side * 0.04 * size, y - 0.47 * size), (x + side * stride, y)], 0.085 * size, trousers)
        hand = (x + side * (0.15 * size + 0.3 * stride), y - 0.45 * size)
        canvas.line([(x + side * 0.10 * size, y - 0.77 * size), hand], 0.06 * size, shirt * 0.85)
        canvas.ellipse(hand, (0.032 * size, 0.032 * size), skin)
    canvas.trapezoid(x, (y - 0.82 * size, 0.125 * size), (y - 0.43 * size, 0.10 * size), shirt, shade=0.6)
    canvas.ellipse((x, y - 0.915 * size), (0.072 * size, 0.085 * size), hair)
    canvas.ellipse((x, y - 0.895 * size), (0.058 * size, 0.068 * size), skin, shade=0.4)


# Chance


def _way(canvas: Canvas) -> int:
    """A direction that something faces: 1 is right, -1 left."""
    return 1 if canvas.rng.random() < 0.5 else -1


def _one_of(canvas: Canvas, *colors: Color) -> Color:
    return colors[int(canvas.rng.integers(len(colors)))]


def _vivid(canvas: Canvas) -> Color:
    """A strong colour of any hue."""
    return _any_color(canvas, (0.0, 1.0), (0.6, 0.9), (0.65, 0.95))


def _pastel(canvas: Canvas) -> Color:
    return _any_color(canvas, (0.0, 1.0), (0.05, 0.35), (0.82, 0.97))


def _green(canvas: Canvas) -> Color:
    return _any_color(canvas, (0.20, 0.36), (0.5, 0.75), (0.38, 0.62))


def _any_color(canvas: Canvas, hue: Sequence[float], saturation: Sequence[float], value: Sequence[float]) -> Color:
    return colorsys.hsv_to_rgb(*(canvas.rng.uniform(low, high) for low, high in (hue, saturation, value)))


def _undimmed(canvas: Canvas, color: Color) -> Color:
    """The colour of a light source: the scene's tint turns it back into `color`."""
    return np.divide(color, np.maximum(canvas.light.tint, 0.05))
