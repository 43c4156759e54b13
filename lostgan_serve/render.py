"""Pictures of results: object maps with a legend, overlays, layout drawings and contact sheets."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lostgan_serve.contract import NO_OBJECT, Array
from lostgan_serve.errors import MissingExtraError
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import Result

Color = tuple[int, int, int]

_SHOWN_SIDE_PX = 512  # pictures with text are enlarged to at least this
_MASK_OPACITY = 0.35
_NAME_LENGTH = 24  # of an id that is drawn, in characters
_INK, _PAPER = (20, 22, 26), (250, 250, 247)
_INK_INDEX, _PAPER_INDEX = 253, 254  # in the palette of an object map, above any slot that has a colour of its own


@lru_cache
def color_of(slot: int) -> Color:
    """The colour of a slot: hues a golden angle apart, so that neighbours differ, in three depths."""
    hue = (0.58 + slot * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.62, 0.85, 0.45)[slot % 3], (0.92, 0.74, 0.98)[slot % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def image_picture(result: Result) -> Image.Image:
    """The generated image as it is."""
    return Image.fromarray(_present(result.image))


def mask_pictures(result: Result) -> list[Image.Image]:
    """Each object's soft mask, in grey."""
    return [Image.fromarray(mask) for mask in _present(result.masks)]


def object_picture(result: Result) -> Image.Image:
    """The object map in colours and, to its right, a legend: each object's name and its share of the picture.

    A palette picture ("P"): a pixel of the map is the index of its object in `result.names`, 255 for none. The map is
    enlarged by a whole factor k to at least 512 px, so that every k-th pixel gives it back.
    """
    object_map = _present(result.object_map)
    side = len(object_map) * _factor(len(object_map))
    step = min(30, side // (len(result.names) + 1))
    size_px = max(8, round(0.55 * step))
    counts = np.bincount(object_map.ravel(), minlength=NO_OBJECT + 1)
    legend = [
        (_text(_short(name), size_px), _text(f"{100 * count / object_map.size:.0f}%", size_px))
        for name, count in zip(result.names, counts, strict=False)
    ]
    panel = 3 * step + 12 + max(name.width + share.width for name, share in legend)
    picture = Image.new("P", (side + panel, side), _PAPER_INDEX)
    picture.putpalette(_palette())
    picture.paste(Image.fromarray(object_map).resize((side, side), Image.Resampling.NEAREST), (0, 0))
    draw = ImageDraw.Draw(picture)
    for slot, (name, share) in enumerate(legend):
        left, top = side + 12, 12 + slot * step
        draw.rectangle((left, top, left + 0.6 * step, top + 0.6 * step), fill=slot, outline=_INK_INDEX)
        middle = top + round(0.3 * step)
        for text, x in ((name, left + step), (share, left + round(1.5 * step) + name.width)):
            # no anti-aliasing: a palette has no colours between two of its own
            picture.paste(_INK_INDEX, (x, middle - text.height // 2), text.convert("1", dither=Image.Dither.NONE))
    return picture


def overlay(result: Result) -> Image.Image:
    """The image with each object's mask, box and name drawn over it, enlarged to at least 512 px."""
    image = _present(result.image).astype(np.float32)
    for slot, mask in enumerate(_present(result.masks)):
        rows, columns = (_span(mask.any(axis)) for axis in (1, 0))
        part = image[rows, columns]
        opacity = mask[rows, columns, None] * np.float32(_MASK_OPACITY / 255)
        part += opacity * (np.array(color_of(slot), np.float32) - part)
    small = Image.fromarray((image + np.float32(0.5)).astype(np.uint8))
    side = small.width * _factor(small.width)
    picture = small.resize((side, side), Image.Resampling.BILINEAR)
    _draw_boxes(picture, result.layout)
    return picture


def layout_picture(layout: Layout, side_px: int = _SHOWN_SIDE_PX) -> Image.Image:
    """The boxes of a layout with their names, largest first."""
    picture = Image.new("RGB", (side_px, side_px), _PAPER)
    draw = ImageDraw.Draw(picture)
    areas = {slot: item.box[2] * item.box[3] for slot, item in enumerate(layout.objects)}
    for slot in sorted(areas, key=lambda s: -areas[s]):
        pale = tuple(round(0.35 * c + 0.65 * p) for c, p in zip(color_of(slot), _PAPER, strict=True))
        draw.rectangle(_pixels(layout.objects[slot].box, side_px), fill=pale)
    _draw_boxes(picture, layout)
    return picture


def contact_sheet(
    results: Sequence[Result],
    side_px: int = 256,
    reals: Sequence[Image.Image] | None = None,
) -> Image.Image:
    """One column for each result: its layout, the real image that it is of where there are `reals`, its image and its
    objects."""
    margin, title = 10, 26
    columns, rows = len(results), 3 + (reals is not None)
    size = (margin + columns * (side_px + margin), title + margin + rows * (side_px + margin))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, result in enumerate(results):
        left = margin + column * (side_px + margin)
        draw.text((left, 8), f"{result.layout.name}, seed {result.layout.seed}", fill=_INK, font=_font(14))
        colors = Image.fromarray(_present(result.object_map), "P")
        colors.putpalette(_palette())
        objects = colors.convert("RGB")
        pictures = [layout_picture(result.layout, side_px), Image.fromarray(_present(result.image)), objects]
        if reals is not None:
            pictures.insert(1, reals[column])
        for row, picture in enumerate(pictures):
            smooth = Image.Resampling.NEAREST if picture is objects else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((side_px, side_px), smooth), (left, title + row * (side_px + margin)))
    return sheet


def _draw_boxes(picture: Image.Image, layout: Layout) -> None:
    draw = ImageDraw.Draw(picture)
    size_px = max(13, picture.width // 36)
    boxes = [_pixels(item.box, picture.width) for item in layout.objects]
    for slot, box in enumerate(boxes):
        draw.rectangle(box, outline=color_of(slot), width=max(2, picture.width // 200))
    for slot, (left, top, _, _) in enumerate(boxes):  # names last: no box crosses one
        name = _text(_short(layout.objects[slot].id), size_px)
        left = max(0, min(left, picture.width - name.width - 10))  # a name near the edge moves inwards
        draw.rectangle((left, top, left + name.width + 10, top + name.height + 8), fill=color_of(slot))
        picture.paste(_ink_on(color_of(slot)), (left + 5, top + 4), name)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _ink_on(color: Color) -> Color:
    red, green, blue = color
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else _PAPER


def _pixels(box: tuple[float, float, float, float], side_px: int) -> tuple[int, int, int, int]:
    x, y, width, height = (round(value * side_px) for value in box)
    return x, y, max(x + 1, x + width - 1), max(y + 1, y + height - 1)


def _factor(side_px: int) -> int:
    """The whole factor by which a picture is enlarged."""
    return max(1, -(-_SHOWN_SIDE_PX // side_px))


def _span(used: Array) -> slice:
    """From the first True to the last."""
    places = np.flatnonzero(used)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0)


@lru_cache
def _palette() -> bytes:
    colors = [color_of(slot) for slot in range(256)]
    colors[_INK_INDEX], colors[_PAPER_INDEX], colors[NO_OBJECT] = _INK, _PAPER, (0, 0, 0)
    return bytes(level for color in colors for level in color)


@lru_cache(maxsize=4096)
def _text(text: str, size_px: int) -> Image.Image:
    """A text as a mask in grey, as wide as the text and as high as any of its font. The same few names stand in many
    pictures, and rasterizing them took half of a picture's time."""
    font = _font(size_px)
    ascent, descent = font.getmetrics()
    mask = Image.new("L", (max(1, round(font.getlength(text))), ascent + descent))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    return mask


@lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise MissingExtraError("this Pillow was built without FreeType; mend it: pip install --force-reinstall pillow")
    return font


def _present(output: Array | None) -> Array:
    if output is None:
        raise ValueError("this picture needs outputs that were not asked for; call generate() with all of them")
    return output
