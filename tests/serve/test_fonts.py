"""Texts in any script: with a system's fonts, and without."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from lostgan_serve import fonts

IDS = {
    "骑手": "U+9A91 U+624B",
    "راكب": "U+0631 U+0627 U+0643 U+0628",
    "घोड़ा": "U+0918 U+094B U+0921 U+093C U+093E",
    "🐴2": "U+1F434 2",
}
"""Ids in four scripts, and what is written for them where no font has their characters."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with fonts."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "fonts").mkdir()
    return tmp_path / "fonts"


def fresh() -> ModuleType:
    """The module as a new process has it, which has seen no folder yet."""
    return importlib.reload(fonts)


def make_font(path: Path, characters: str, height: int = 700) -> None:
    """A font in which every character is a full block, and one that it lacks is an outlined box."""
    names = {ord(character): f"u{ord(character):X}" for character in characters}
    pens = {name: TTGlyphPen(None) for name in (".notdef", *names.values())}
    for name, pen in pens.items():
        for inset in (0, 100)[: 1 + (name == ".notdef")]:
            corners = [(inset, inset), (inset, height - inset), (600 - inset, height - inset), (600 - inset, inset)]
            pen.moveTo(corners[0])
            for corner in corners[1:] if not inset else corners[:0:-1]:
                pen.lineTo(corner)
            pen.closePath()
    font = FontBuilder(1000)
    font.setupGlyphOrder(list(pens))
    font.setupCharacterMap(names)
    font.setupGlyf({name: pen.glyph() for name, pen in pens.items()})
    font.setupHorizontalMetrics(dict.fromkeys(pens, (700, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def ink(module: ModuleType, text: str, **options: float) -> npt.NDArray[np.uint8]:
    return np.asarray(module.text_mask(text, 20, **options))


@pytest.mark.parametrize(("text", "written"), IDS.items())
def test_without_a_font_characters_are_written_by_their_numbers(text: str, written: str, folder: Path) -> None:
    module = fresh()
    np.testing.assert_array_equal(ink(module, text), ink(module, written))


@pytest.mark.parametrize("text", IDS)
def test_a_system_font_shows_the_characters_that_it_has(text: str, folder: Path) -> None:
    make_font(folder / "Some.ttf", text)
    pixels = ink(fresh(), text)
    assert pixels.shape[1] == 14 * len(text)
    assert (pixels > 250).sum() == pytest.approx(len(text) * 12 * 14, rel=0.1)  # blocks of 0.6 x 0.7 em


def test_a_text_is_in_one_font_that_has_it_all_or_else_in_few(folder: Path) -> None:
    make_font(folder / "A.ttf", "骑")
    make_font(folder / "B.ttf", "骑手", height=400)
    module = fresh()
    assert (ink(module, "骑").any(1).sum(), ink(module, "骑手").any(1).sum()) == (14, 8)
    mixed, rider = ink(module, "骑手 rider"), ink(module, "rider")
    assert np.array_equal(mixed[:, -rider.shape[1] :], rider)  # B has no letters
    assert mixed.shape[1] == pytest.approx(28 + 5 + rider.shape[1], abs=10)


def test_plain_fonts_come_before_bold_ones_and_placeholders_never(folder: Path) -> None:
    for name, height in (("A-Bold", 300), ("LastResort", 400), ("Z", 700)):
        make_font(folder / f"{name}.ttf", "骑", height)
    assert ink(fresh(), "骑").any(1).sum() == 14  # the height of the third


def test_files_that_are_no_fonts_are_passed_over(folder: Path) -> None:
    (folder / "A.ttf").write_bytes(b"not a font")
    (folder / "B.ttf").symlink_to(folder / "gone.ttf")
    make_font(folder / "deep.TTF", "骑")
    module = fresh()
    assert ink(module, "骑").shape[1] == 14
    assert ink(module, "手").shape[1] > 40


def test_accents_and_joiners_that_no_font_has_are_left_out(folder: Path) -> None:
    module = fresh()
    for text, written in (("café Ǣ", "cafe U+01E2"), ("per\u200dson\ufe0f", "person"), ("a\u2028b", "a b")):
        np.testing.assert_array_equal(ink(module, text), ink(module, written))


def test_a_long_text_is_cut_to_its_width(folder: Path) -> None:
    module = fresh()
    assert ink(module, "n" * 200, width_px=100).shape[1] <= 100
    np.testing.assert_array_equal(ink(module, "rider", width_px=100), ink(module, "rider"))
    np.testing.assert_array_equal(ink(module, "ab " + "n" * 200, width_px=40), ink(module, "ab…"))
