"""Figures of several results, as the paper's figures 9 to 12: rows of pictures with a few words above each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from PIL import Image

from lostgan_serve.changes import Changes, Float32
from lostgan_serve.colors import INK, PAPER, WHITE
from lostgan_serve.contract import Array
from lostgan_serve.fonts import text_mask
from lostgan_serve.layout import Code, Layout, Mix
from lostgan_serve.pipeline import Result
from lostgan_serve.render import draw_boxes, image_picture, layout_picture, map_picture

_MARGIN_PX = 10
_SIDES_PX = (256, 512)  # of a picture in a figure, at least and at most
_STRIP_COLUMNS = 8  # images in a row of a morph
_STEP_MS, _END_MS = 150, 700  # of an animation's frames
_WEBP_QUALITY = 90
_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colours from no change to the largest, of evenly rising lightness (matplotlib's inferno)."""
_HEAT_STEP = 5  # the largest change that a heat map shows is a multiple of this, in levels


@dataclass(frozen=True)
class Tile:
    """A picture of a figure. words: what stands above it."""

    picture: Image.Image
    words: str = ""


Rows = Sequence[Sequence[Tile | None]]


def figure(rows: Rows, side_px: int) -> Image.Image:
    """Tiles in rows, with None for an empty place. Every picture is resized to `side_px`; those of palettes stay
    sharp, so that the pixels of object maps can be counted."""
    size_px = text_px(side_px)
    line = round(1.8 * size_px)
    heads = [line if any(tile and tile.words for tile in row) else 0 for row in rows]
    columns, step = max(len(row) for row in rows), side_px + _MARGIN_PX
    sheet = Image.new("RGB", (_MARGIN_PX + columns * step, _MARGIN_PX + len(rows) * step + sum(heads)), PAPER)
    top = _MARGIN_PX
    for row, head in zip(rows, heads, strict=True):
        for column, tile in enumerate(row):
            if tile is None:
                continue
            left = _MARGIN_PX + column * step
            if tile.words:
                sheet.paste(INK, (left, top), text_mask(tile.words, size_px, side_px))
            smooth = Image.Resampling.NEAREST if tile.picture.mode == "P" else Image.Resampling.LANCZOS
            sheet.paste(tile.picture.resize((side_px, side_px), smooth).convert("RGB"), (left, top + head))
        top += head + step
    return sheet


def text_px(side_px: int) -> int:
    """The height of text that goes with pictures of a side."""
    return max(14, side_px // 22)


def contact_sheet(
    results: Sequence[Result], side_px: int = 256, reals: Sequence[Image.Image] | None = None
) -> Image.Image:
    """One column for each result: its layout, the real image that it is of where there are `reals`, its image and its
    objects."""
    words = [f"{r.layout.name}, {_style_words(r.layout.style or r.layout.seed)}" for r in results]
    layouts = [Tile(layout_picture(r.layout, side_px), text) for r, text in zip(results, words, strict=True)]
    rows = [layouts, [Tile(image_picture(r)) for r in results], [Tile(map_picture(r)) for r in results]]
    if reals is not None:
        rows.insert(1, [Tile(real) for real in reals])
    return figure(rows, side_px)


def styles_sheet(results: Sequence[Result], name: str) -> Image.Image:
    """A layout and its images in several styles, each under its seed (figure 10 of the paper). name: the layout's."""
    side_px = _side(results[0])
    columns = ceil(sqrt(len(results)))
    images = [Tile(image_picture(result), f"seed {result.layout.seed}") for result in results]
    layout = Tile(layout_picture(results[0].layout, side_px), name)
    return figure(_beside(layout, [images[k : k + columns] for k in range(0, len(images), columns)]), side_px)


def morph_strip(results: Sequence[Result], object_id: str | None = None) -> Image.Image:
    """A layout, and its images and object maps on the way from one style to another (figure 12 of the paper), each
    under its mix. results: of the layouts that `samples.morph` makes with this object_id."""
    side_px, layout = _side(results[0]), results[0].layout
    rows = []
    for first in range(0, len(results), _STRIP_COLUMNS):
        part = results[first : first + _STRIP_COLUMNS]
        rows.append([Tile(image_picture(result), _style_words(_style_of(result.layout, object_id))) for result in part])
        rows.append([Tile(map_picture(result)) for result in part])
    words = layout.name if object_id is None else f"{layout.name}: {object_id}"
    return figure(_beside(Tile(layout_picture(layout, side_px), words), rows), side_px)


def morph_animation(results: Sequence[Result]) -> bytes:
    """An animated WebP of images in their order and back, without an end."""
    side = _side(results[0])
    frames = [image_picture(result).resize((side, side), Image.Resampling.LANCZOS) for result in results]
    times_ms = [_STEP_MS] * len(frames)
    times_ms[0] = times_ms[-1] = _END_MS
    frames, times_ms = frames + frames[-2:0:-1], times_ms + times_ms[-2:0:-1]
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=times_ms, loop=0, quality=_WEBP_QUALITY
    )
    return file.getvalue()


def comparison_sheet(
    before: Result, after: Result, found: Changes, levels: Float32, words: Sequence[str]
) -> Image.Image:
    """Two results above one another: layouts, images, object maps (figure 9 of the paper), and where the images differ.

    found: the changes, whose boxes are outlined. levels: [R, R], by how much the images differ. words: lines of text.
    """
    side_px = _side(before)
    heat, most = heat_picture(levels, side_px)
    boxes = {(item.id, item.box): item for change in found.objects for item in change.objects}
    draw_boxes(heat, list(boxes.values()), [WHITE] * len(boxes))
    rows = []
    for result, last in ((before, Tile(heat, "change")), (after, Tile(_words_picture(words, most, side_px)))):
        layout = Tile(layout_picture(result.layout, side_px), result.layout.name)
        rows.append([layout, Tile(image_picture(result), "image"), Tile(map_picture(result), "objects"), last])
    return figure(rows, side_px)


def heat_picture(levels: Float32, side_px: int) -> tuple[Image.Image, int]:
    """A heat map of changes [R, R] in levels of 255, and the change that has its brightest colour."""
    most = max(_HEAT_STEP, ceil(float(levels.max()) / _HEAT_STEP) * _HEAT_STEP)
    return Image.fromarray(_heat(levels / most)).resize((side_px, side_px), Image.Resampling.BILINEAR), most


def _words_picture(words: Sequence[str], most: int, side_px: int) -> Image.Image:
    """Lines of text, as many as fit, above the scale of a heat map."""
    size_px = text_px(side_px)
    step = round(1.6 * size_px)
    room = side_px // step - 3
    lines = [line for text in words for line in _wrapped(text, size_px, side_px)]
    if len(lines) > room:
        lines[room - 1 :] = [f"and {len(lines) - room + 1} more lines"]
    picture = Image.new("RGB", (side_px, side_px), PAPER)
    for number, line in enumerate(lines):
        picture.paste(INK, (0, number * step), text_mask(line, size_px, side_px))
    bar = Image.fromarray(np.tile(_heat(np.linspace(0, 1, side_px, dtype=np.float32)), (size_px, 1, 1)))
    picture.paste(bar, (0, side_px - size_px))
    right = text_mask(f"{most} levels of 255", size_px)
    picture.paste(INK, (0, side_px - size_px - step), text_mask("0", size_px))
    picture.paste(INK, (side_px - right.width, side_px - size_px - step), right)
    return picture


def _wrapped(text: str, size_px: int, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_mask(longer, size_px).width > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _heat(shares: Float32) -> Array:
    """Colours [..., 3] uint8 of shares in [0, 1]."""
    stops = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(shares, stops, levels) for levels in zip(*_HEAT, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _beside(first: Tile, rows: Rows) -> Rows:
    """Rows with a tile before the first of them."""
    return [[first if number == 0 else None, *row] for number, row in enumerate(rows)]


def _side(result: Result) -> int:
    """The side at which a figure shows images of a result's size, in pixels."""
    low, high = _SIDES_PX
    return min(max(image_picture(result).width, low), high)


def _style_of(layout: Layout, object_id: str | None) -> Mix | Code | int:
    """The style of an object, or else the layout's."""
    items = (item for item in layout.objects if item.id == object_id)
    return next((item.style for item in items if item.style), layout.style or layout.seed)


def _style_words(style: Mix | Code | int) -> str:
    if isinstance(style, Code):
        return "code"
    if isinstance(style, int):
        return f"seed {style}"
    return {0.0: f"seed {style.start}", 1.0: f"seed {style.end}"}.get(style.share, f"mix {style.share:.2f}")
