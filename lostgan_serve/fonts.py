"""Texts in any script: in Pillow's own font where it has the characters, else in a font of the system that does.

A character that no font has is written without its accents, or else by its number, such as U+9A91: never as a box.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from lostgan_serve.errors import MissingExtraError

_KINDS = frozenset((".ttf", ".otf", ".ttc", ".otc"))
_STYLES = re.compile("bold|italic|oblique|light|thin|black|medium|condensed|mono|serif", re.IGNORECASE)
_PLACEHOLDERS = re.compile("last ?resort|adobe ?blank", re.IGNORECASE)  # have a box, or nothing, for every character
_PROBE_PX = 24
_NO_CHARACTER = "\uffff"  # a font shows for it what it shows for all that it lacks
_SELECTORS = range(0xFE00, 0xFE10)  # of variants of the character before them


class _Run(NamedTuple):
    """A part of a text, and the font that has its characters; None for Pillow's own."""

    text: str
    path: Path | None


@lru_cache(maxsize=4096)
def text_mask(text: str, size_px: int, width_px: float = math.inf) -> Image.Image:
    """A text as a mask in grey, as wide as the text and as high as any of its fonts. One that is wider than `width_px`
    is cut, and ends with three dots.

    The same few names stand in many pictures, and rasterizing them took half of a picture's time.
    """
    runs = _fitted(_runs(text), size_px, width_px)
    heights = [_font(run.path, size_px).getmetrics() for run in runs]
    ascent, descent = (max(values) for values in zip(*heights, strict=True))
    mask = Image.new("L", (max(1, math.ceil(_width(runs, size_px))), ascent + descent))
    draw, left = ImageDraw.Draw(mask), 0.0
    for run in runs:
        font = _font(run.path, size_px)
        draw.text((left, ascent), run.text, fill=255, font=font, anchor="ls")
        left += font.getlength(run.text)
    return mask


def _width(runs: Sequence[_Run], size_px: int) -> float:
    return sum(_font(run.path, size_px).getlength(run.text) for run in runs)


def _fitted(runs: list[_Run], size_px: int, width_px: float) -> list[_Run]:
    """Runs, or as much of them as is no wider than this, with dots behind."""
    if _width(runs, size_px) <= width_px:
        return runs
    left, dots = list(runs), _Run("…", None)
    while left and _width([*left, dots], size_px) > width_px:
        last = left.pop()
        if shorter := last.text[:-1].rstrip():
            left.append(_Run(shorter, last.path))
    return [*left, dots]


@lru_cache(maxsize=4096)
def _runs(text: str) -> list[_Run]:
    """A text in as few fonts as it needs. Pillow's own writes which characters no font has, and always begins, if only
    with nothing, so that lines are equally high."""
    runs = [_Run("", None)]
    while text:
        path, length = _longest(text)
        shown = "".join(_shown(character, path) for character in text[:length]) if length else _described(text[0])
        before = runs.pop().text if runs[-1].path == path else ""
        runs.append(_Run(re.sub(" +", " ", before + shown), path))
        text = text[max(1, length) :]
    runs[0] = _Run(runs[0].text.lstrip(), runs[0].path)
    runs[-1] = _Run(runs[-1].text.rstrip(), runs[-1].path)
    return runs


def _longest(text: str) -> tuple[Path | None, int]:
    """The first of the fonts that have the most characters at the beginning of a text, and how many these are."""
    best, most = None, 0
    for path in (None, *_system_fonts()):
        length = _covered(path, text)
        if length > most:
            best, most = path, length
        if most == len(text):
            break
    return best, most


def _covered(path: Path | None, text: str) -> int:
    """How many characters at the beginning of a text a font has."""
    return next((n for n, c in enumerate(text) if not (_is_invisible(c) or _has(path, c))), len(text))


def _shown(character: str, path: Path | None) -> str:
    """A character as its font shows it: lines are not broken, and joiners that a font lacks are left out."""
    if character.isspace():
        return " "
    return character if _has(path, character) else ""


def _described(character: str) -> str:
    """A character that no font has: without its accents, or else its number."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    return plain if plain and all(_has(None, part) for part in plain) else f" U+{ord(character):04X} "


def _is_invisible(character: str) -> bool:
    """Whether a character needs no glyph: a space, a joiner and the like."""
    return character.isspace() or unicodedata.category(character) == "Cf" or ord(character) in _SELECTORS


@lru_cache(maxsize=2**17)
def _has(path: Path | None, character: str) -> bool:
    """Whether a font has a glyph for a character."""
    try:
        return _glyph(path, character) != _glyph(path, _NO_CHARACTER)
    except OSError:  # no font, or one of bitmaps in other sizes
        return False


def _glyph(path: Path | None, character: str) -> tuple[tuple[int, int], bytes]:
    """The size and pixels of a character by itself, without what a layout would add to it."""
    mask = _font(path, _PROBE_PX, ImageFont.Layout.BASIC).getmask(character)
    return mask.size, bytes(mask)


@cache
def _system_fonts() -> tuple[Path, ...]:
    """The fonts in the usual folders of Linux, macOS and Windows, plain ones first."""
    found = {
        path
        for folder in _font_folders()
        for parent, _, names in os.walk(folder)
        for path in (Path(parent, name) for name in names)
        if path.suffix.lower() in _KINDS and not _PLACEHOLDERS.search(path.stem)
    }
    return tuple(sorted(found, key=_plainness))


def _plainness(path: Path) -> tuple[int, bool, str, Path]:
    return len(_STYLES.findall(path.stem)), "sans" not in path.stem.lower(), path.name, path


def _font_folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises where there is none
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
    windows = [Path(os.environ[name], rest) for name, rest in _WINDOWS if name in os.environ]
    macos = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return [home / ".fonts", *(Path(data, "fonts") for data in (own, *shared.split(":"))), *macos, *windows]


_WINDOWS = (("WINDIR", "Fonts"), ("LOCALAPPDATA", "Microsoft/Windows/Fonts"))


@lru_cache(maxsize=32)  # each keeps a file open
def _font(path: Path | None, size_px: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px) if path is None else ImageFont.truetype(path, size_px, layout_engine=layout)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise MissingExtraError("this Pillow was built without FreeType; mend it: pip install --force-reinstall pillow")
    return font
