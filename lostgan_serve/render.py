"""Pictures of results and layouts: object maps with a legend, overlays, layout drawings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from lostgan_serve.colors import BLACK, INK, PAPER, Color, object_colors, text_on
from lostgan_serve.contract import NO_OBJECT, Array
from lostgan_serve.fonts import text_mask
from lostgan_serve.layout import Box, Layout, LayoutObject
from lostgan_serve.pipeline import Result

_SHOWN_SIDE_PX = 512  # pictures with text are enlarged to at least this
_MASK_OPACITY = 0.35
_NAME_WIDTH = 13  # of an id that is drawn at most, in heights of its text
_NAME_MARGIN_PX = (5, 4)
_LEGEND_STEP_PX = (20, 30)  # from one name of a legend to the next
_INK_INDEX, _PAPER_INDEX = 253, 254  # in the palette of an object map, above any slot

Place = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


def image_picture(result: Result) -> Image.Image:
    """The generated image as it is."""
    return Image.fromarray(_present(result.image))


def mask_pictures(result: Result) -> list[Image.Image]:
    """Each object's soft mask, in grey."""
    return [Image.fromarray(mask) for mask in _present(result.masks)]


def map_picture(result: Result) -> Image.Image:
    """The object map in the colours of its objects, [R, R]: a palette picture ("P") whose pixels are the map's."""
    picture = Image.fromarray(_present(result.object_map), "P")
    picture.putpalette(_palette(_labels(result)))
    return picture


def object_picture(result: Result) -> Image.Image:
    """The object map in colours and, to its right, a legend: each object's name and its share of the picture.

    A palette picture ("P"): a pixel of the map is the index of its object in `result.names`, 255 for none. The map is
    enlarged by a whole factor k to at least 512 px, so that every k-th pixel gives it back.
    """
    small = Image.fromarray(_present(result.object_map))
    side = small.width * _factor(small.width)
    legend = _legend(result, side)
    picture = Image.new("P", (side + legend.width, side), _PAPER_INDEX)
    picture.putpalette(_palette(_labels(result)))
    picture.paste(small.resize((side, side), Image.Resampling.NEAREST), (0, 0))
    picture.paste(legend, (side, 0))
    return picture


def _legend(result: Result, height_px: int) -> Image.Image:
    """The names of objects, their colours and shares, in as many columns as they need. Pixels are indices."""
    owners = _present(result.object_map).ravel()
    counts = np.bincount(owners, minlength=NO_OBJECT + 1)
    low, high = _LEGEND_STEP_PX
    step = max(low, min(high, height_px // (len(result.names) + 1)))
    size_px, rows = round(0.55 * step), max(1, (height_px - 12) // step)
    entries = [
        (text_mask(name, size_px, _NAME_WIDTH * size_px), text_mask(f"{100 * count / len(owners):.0f}%", size_px))
        for name, count in zip(result.names, counts, strict=False)
    ]
    columns = [entries[first : first + rows] for first in range(0, len(entries), rows)]
    widths = [3 * step + 12 + max(name.width + share.width for name, share in column) for column in columns]
    picture = Image.new("P", (sum(widths), height_px), _PAPER_INDEX)
    draw = ImageDraw.Draw(picture)
    for slot, (name, share) in enumerate(entries):
        column, row = divmod(slot, rows)
        left, top = sum(widths[:column]) + 12, 12 + row * step
        draw.rectangle((left, top, left + 0.6 * step, top + 0.6 * step), fill=slot, outline=_INK_INDEX)
        middle = top + round(0.3 * step)
        for text, x in ((name, left + step), (share, left + round(1.5 * step) + name.width)):
            # no anti-aliasing: a palette has no colours between two of its own
            picture.paste(_INK_INDEX, (x, middle - text.height // 2), text.convert("1", dither=Image.Dither.NONE))
    return picture


def overlay(result: Result) -> Image.Image:
    """The image with each object's mask, box and name drawn over it, enlarged to at least 512 px."""
    image = _present(result.image).astype(np.float32)
    colors = object_colors(_labels(result))
    for mask, color in zip(_present(result.masks), colors, strict=True):
        left, top, right, bottom = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
        part = image[top:bottom, left:right]
        opacity = mask[top:bottom, left:right, None] * np.float32(_MASK_OPACITY / 255)
        part += opacity * (np.array(color, np.float32) - part)
    small = Image.fromarray((image + np.float32(0.5)).astype(np.uint8))
    side = small.width * _factor(small.width)
    picture = small.resize((side, side), Image.Resampling.BILINEAR)
    draw_boxes(picture, result.layout.objects, colors)
    return picture


def layout_picture(layout: Layout, side_px: int = _SHOWN_SIDE_PX) -> Image.Image:
    """The boxes of a layout with their names, largest first."""
    picture = Image.new("RGB", (side_px, side_px), PAPER)
    draw = ImageDraw.Draw(picture)
    colors = object_colors(item.label for item in layout.objects)
    areas = {slot: item.box[2] * item.box[3] for slot, item in enumerate(layout.objects)}
    for slot in sorted(areas, key=lambda s: -areas[s]):
        pale = tuple(round(0.35 * c + 0.65 * p) for c, p in zip(colors[slot], PAPER, strict=True))
        draw.rectangle(_pixels(layout.objects[slot].box, side_px), fill=pale)
    draw_boxes(picture, layout.objects, colors)
    return picture


def draw_boxes(picture: Image.Image, objects: Sequence[LayoutObject], colors: Sequence[Color]) -> None:
    """Draw the boxes of objects and their names into a square picture. colors: one for each object; more are not used.

    Names keep clear of one another where they can.
    """
    draw = ImageDraw.Draw(picture)
    side, size_px = picture.width, max(13, picture.width // 36)
    boxes = [_pixels(item.box, side) for item in objects]
    for box, color in zip(boxes, colors, strict=False):
        draw.rectangle(box, outline=color, width=max(2, side // 200))
    margin_x, margin_y = _NAME_MARGIN_PX
    taken: list[Place] = []
    for item, box, color in zip(objects, boxes, colors, strict=False):  # names last: no box crosses one
        name = text_mask(item.id, size_px, min(_NAME_WIDTH * size_px, side - 2 * margin_x))
        place = _place_name(box, (name.width + 2 * margin_x, name.height + 2 * margin_y), side, taken)
        taken.append(place)
        draw.rectangle(place, fill=color)
        picture.paste(text_on(color), (place[0] + margin_x, place[1] + margin_y), name)


def _place_name(box: Place, size: tuple[int, int], side_px: int, taken: Sequence[Place]) -> Place:
    """The first place for a name in and around a box that no other name has; the last where all are taken."""
    (left, top, right, bottom), (width, height) = box, size
    inside, outside = [(left, top), (right - width, top)], [(left, top - height), (left, bottom + 1)]
    covers = bottom - top < 2 * height or right - left < width  # it would hide a small box
    near = [*outside, *inside] if covers else [*inside, *outside]
    far = [(left, bottom - height), (right - width, bottom - height), (left - width, top), (right + 1, top)]
    for x, y in (*near, *far, (left, top - 2 * height), (left, bottom + 1 + height)):
        x, y = max(0, min(x, side_px - 1 - width)), max(0, min(y, side_px - 1 - height))  # not beyond an edge
        place = (x, y, x + width, y + height)
        if not any(_overlap(place, other) for other in taken):
            return place
    return place


def _overlap(one: Place, other: Place) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _pixels(box: Box, side_px: int) -> Place:
    x, y, width, height = (round(value * side_px) for value in box)
    return x, y, max(x + 1, x + width - 1), max(y + 1, y + height - 1)


def _factor(side_px: int) -> int:
    """The whole factor by which a picture is enlarged."""
    return max(1, -(-_SHOWN_SIDE_PX // side_px))


def _labels(result: Result) -> tuple[str, ...]:
    """The label of each slot in use; the background's is its name."""
    return *(item.label for item in result.layout.objects), *result.names[len(result.layout.objects) :]


@lru_cache(maxsize=1024)
def _palette(labels: tuple[str, ...]) -> bytes:
    """The colours of an object map: its objects' and, at the end, those of text, paper and no object."""
    levels = bytes(level for color in object_colors(labels) for level in color)[: 3 * _INK_INDEX]
    return levels.ljust(3 * _INK_INDEX) + bytes((*INK, *PAPER, *BLACK))


def _present(output: Array | None) -> Array:
    if output is None:
        raise ValueError("this picture needs outputs that were not asked for; call generate() with all of them")
    return output
