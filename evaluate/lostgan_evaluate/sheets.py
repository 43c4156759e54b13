"""Sheets: pictures in rows and columns with a few words, as the paper's figures show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lostgan_serve.colors import INK, PAPER
from lostgan_serve.figures import Tile
from lostgan_serve.files import write_file
from lostgan_serve.fonts import text_mask
from lostgan_serve.png import png

_MARGIN_PX, _TEXT_PX, _LINE_PX, _ROW_HEAD_PX = 8, 13, 20, 150


@dataclass(frozen=True)
class Row:
    """Tiles in a row. head: the words before them."""

    head: str
    tiles: Sequence[Tile]


def write_sheet(path: Path, rows: Sequence[Row], side_px: int) -> str:
    """Write rows of pictures, each enlarged or shrunk to `side_px`, as a PNG. Returns its file's name.

    Small pictures stay sharp, so that the pixels of masks can be counted. Raises OutputError.
    """
    step_x, step_y = side_px + _MARGIN_PX, side_px + _LINE_PX
    columns = max(len(row.tiles) for row in rows)
    size = (_ROW_HEAD_PX + columns * step_x, _MARGIN_PX + len(rows) * step_y)
    sheet = Image.new("RGB", size, PAPER)
    for number, row in enumerate(rows):
        top = _MARGIN_PX + number * step_y
        for line, words in enumerate(row.head.split("\n")):
            sheet.paste(INK, (_MARGIN_PX, top + line * _LINE_PX), text_mask(words, _TEXT_PX, _ROW_HEAD_PX))
        for column, tile in enumerate(row.tiles):
            left = _ROW_HEAD_PX + column * step_x
            enlarges = tile.picture.width < side_px
            how = Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS
            sheet.paste(tile.picture.convert("RGB").resize((side_px, side_px), how), (left, top))
            sheet.paste(INK, (left, top + side_px + 2), text_mask(tile.words, _TEXT_PX, side_px))
    write_file(path, png(sheet))
    return path.name
