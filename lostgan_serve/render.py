"""Pictures of results: object maps with a legend, overlays, layout drawings and contact sheets."""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lostgan_serve.contract import NO_OBJECT, Array
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import Result

Color = tuple[int, int, int]

_SHOWN_SIDE_PX = 512  # pictures with text are enlarged to at least this
_MASK_OPACITY = 0.35
_NAME_LENGTH = 24  # of an id that is drawn, in characters
_FILE_NAME_BYTES = 100  # of an id in a file's name: most file systems take 255 in all
_INK, _PAPER = (20, 22, 26), (250, 250, 247)
_INK_INDEX, _PAPER_INDEX = 253, 254  # in the palette of an object map, above any slot that has a colour of its own


def color_of(slot: int) -> Color:
    """The colour of a slot: hues a golden angle apart, so that neighbours differ, in three depths."""
    hue = (0.58 + slot * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.62, 0.85, 0.45)[slot % 3], (0.92, 0.74, 0.98)[slot % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def files_of(result: Result, masks: bool = False) -> Iterator[tuple[str, bytes]]:
    """File names and PNG contents for a result with every output.

    `<name>.png` is the image; `<name>.objects.png` see `object_picture`; `<name>.overlay.png` see `overlay`; with
    `masks`, also `<name>.mask-<slot>-<id>.png`, [R, R] in grey, for each object.
    """
    image, objects, overlaid, *of_masks = file_names(result.layout.name, result.names if masks else ())
    yield image, encode(Image.fromarray(_present(result.image)))
    yield objects, encode(object_picture(result))
    yield overlaid, encode(overlay(result))
    if masks:
        for name, mask in zip(of_masks, _present(result.masks), strict=True):
            yield name, encode(Image.fromarray(mask))


def file_names(name: str, masks: Iterable[str] = ()) -> list[str]:
    """What `files_of` calls the files of the layout `name`. masks: the ids whose masks are written."""
    names = [f"{name}.png", f"{name}.objects.png", f"{name}.overlay.png"]
    for slot, owner in enumerate(masks):
        plain = re.sub(r"[^\w.-]+", "_", owner).encode()[:_FILE_NAME_BYTES].decode(errors="ignore")
        names.append(f"{name}.mask-{slot:02}-{plain}.png")
    return names


def encode(picture: Image.Image) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def object_picture(result: Result) -> Image.Image:
    """The object map in colours and, to its right, a legend: each object's name and its share of the picture.

    A palette picture ("P"): a pixel of the map is the index of its object in `result.names`, 255 for none. The map is
    enlarged by a whole factor k to at least 512 px, so that every k-th pixel gives it back.
    """
    object_map = _present(result.object_map)
    factor = -(-_SHOWN_SIDE_PX // len(object_map))
    enlarged = object_map.repeat(factor, 0).repeat(factor, 1)
    height, width = enlarged.shape
    step = min(30, height // (len(result.names) + 1))
    font = _font(max(8, round(0.55 * step)))
    shares = [f"{_short(name)}  {100 * (object_map == slot).mean():.0f}%" for slot, name in enumerate(result.names)]
    panel = 2 * step + 12 + round(max(font.getlength(share) for share in shares))
    picture = Image.new("P", (width + panel, height), _PAPER_INDEX)
    picture.putpalette(_palette())
    picture.paste(Image.fromarray(enlarged, "L"), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.fontmode = "1"  # no anti-aliasing: a palette has no colours between two of its own
    for slot, share in enumerate(shares):
        top = 12 + slot * step
        draw.rectangle((width + 12, top, width + 12 + 0.6 * step, top + 0.6 * step), fill=slot, outline=_INK_INDEX)
        draw.text((width + 12 + step, top + 0.3 * step), share, fill=_INK_INDEX, font=font, anchor="lm")
    return picture


def overlay(result: Result) -> Image.Image:
    """The image with each object's mask, box and name drawn over it, enlarged to at least 512 px."""
    image = _present(result.image).astype(np.float32)
    for slot, mask in enumerate(_present(result.masks)):
        opacity = (mask / np.float32(255) * _MASK_OPACITY)[..., None]
        image += opacity * (np.array(color_of(slot), np.float32) - image)
    picture = _enlarge(Image.fromarray(image.round().astype(np.uint8)))
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
    below: Sequence[Image.Image] | None = None,
) -> Image.Image:
    """One column for each result: its layout, the real image that it is of where there are `reals`, its image, its
    objects, and one of `below`."""
    margin, title = 10, 26
    columns, rows = len(results), 3 + (reals is not None) + (below is not None)
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
        if below is not None:
            pictures.append(below[column])
        for row, picture in enumerate(pictures):
            smooth = Image.Resampling.NEAREST if picture is objects else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((side_px, side_px), smooth), (left, title + row * (side_px + margin)))
    return sheet


def _draw_boxes(picture: Image.Image, layout: Layout) -> None:
    draw = ImageDraw.Draw(picture)
    font = _font(max(13, picture.width // 36))
    boxes = [_pixels(item.box, picture.width) for item in layout.objects]
    for slot, box in enumerate(boxes):
        draw.rectangle(box, outline=color_of(slot), width=max(2, picture.width // 200))
    for slot, (left, top, _, _) in enumerate(boxes):  # names last: no box crosses one
        name = _short(layout.objects[slot].id)
        _, _, width, height = draw.textbbox((0, 0), name, font=font)
        left = max(0, min(left, picture.width - round(width) - 10))  # a name near the edge moves inwards
        draw.rectangle((left, top, left + width + 10, top + height + 8), fill=color_of(slot))
        draw.text((left + 5, top + 4), name, fill=_ink_on(color_of(slot)), font=font)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _ink_on(color: Color) -> Color:
    red, green, blue = color
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else _PAPER


def _pixels(box: tuple[float, float, float, float], side_px: int) -> tuple[int, int, int, int]:
    x, y, width, height = (round(value * side_px) for value in box)
    return x, y, max(x + 1, x + width - 1), max(y + 1, y + height - 1)


def _enlarge(picture: Image.Image) -> Image.Image:
    factor = max(1, -(-_SHOWN_SIDE_PX // picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def _palette() -> list[int]:
    colors = [color_of(slot) for slot in range(256)]
    colors[_INK_INDEX], colors[_PAPER_INDEX], colors[NO_OBJECT] = _INK, _PAPER, (0, 0, 0)
    return [level for color in colors for level in color]


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _present(output: Array | None) -> Array:
    if output is None:
        raise ValueError("this picture needs outputs that were not asked for; call generate() with all of them")
    return output
