"""Figures of several results, and the commands that write them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageSequence

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.changes import changes, level_changes
from lostgan_serve.choices import MAX_SEED
from lostgan_serve.colors import color_of
from lostgan_serve.errors import LayoutError
from lostgan_serve.figures import (
    Tile,
    comparison_sheet,
    contact_sheet,
    figure,
    morph_animation,
    morph_strip,
    styles_sheet,
)
from lostgan_serve.layout import Layout, Mix
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.png import provenance_of
from lostgan_serve.runners import open_runner
from lostgan_serve.samples import morph, styles
from lostgan_serve.styles import style_codes

COAST = next(path for path in EXAMPLES if path.stem == "coast")
SKY, SEA = {"label": "sky", "box": [0, 0, 1, 0.5]}, {"label": "sea", "box": [0, 0.5, 1, 0.5]}
VIEW = Layout.parse({"seed": 5, "objects": [SKY, SEA]}, name="view")


def result(layout: Layout, level: int) -> Result:
    """A plain 64 px picture of two halves."""
    object_map = np.repeat(np.array([0, 1], np.uint8), 32)[:, None].repeat(64, 1)
    return Result(layout, ("sky-1", "sea-1"), np.full((64, 64, 3), level, np.uint8), object_map)


def tile_at(sheet: Image.Image, column: int, top: int, side: int = 256) -> npt.NDArray[np.uint8]:
    left = 10 + column * (side + 10)
    return np.asarray(sheet)[top : top + side, left : left + side]


def test_tiles_stand_in_rows_and_palettes_stay_sharp() -> None:
    grey, colored = Image.new("L", (4, 4), 99), Image.new("P", (2, 2))
    colored.putpalette([255, 0, 0, 0, 0, 255])
    colored.putpixel((1, 1), 1)
    sheet = figure([[Tile(grey), None, Tile(colored)], [Tile(grey, "words")]], 50)
    assert sheet.size == (10 + 3 * 60, 10 + 2 * 60 + 25)
    pixels = np.asarray(sheet)
    assert (pixels[10:60, 10:60] == 99).all()
    assert len(np.unique(pixels[10:60, 130:180].reshape(-1, 3), axis=0)) == 2
    assert (pixels[70:95, 10:60] < 100).any()  # the words
    assert (pixels[10:60, 70:120] > 240).all()


@pytest.mark.parametrize("name", ["view", "骑手", "n" * 200])
def test_a_contact_sheet_shows_layout_image_and_objects(name: str) -> None:
    sheet = contact_sheet([result(replace(VIEW, name=name), 100)] * 3)
    assert sheet.size == (10 + 3 * 266, 10 + 3 * 266 + 25)
    assert (tile_at(sheet, 2, 35 + 266) == 100).all()
    objects = tile_at(sheet, 1, 35 + 2 * 266)
    assert (objects[:128] == color_of("sky")).all()
    assert (objects[128:] == color_of("sea")).all()
    reals = [Image.new("RGB", (64, 64), (9, 9, 9))] * 3
    assert (tile_at(contact_sheet([result(VIEW, 100)] * 3, reals=reals), 0, 35 + 266) == 9).all()


def test_a_styles_sheet_is_a_square_of_images_beside_the_layout() -> None:
    results = [result(layout, 10 * k) for k, layout in enumerate(styles(VIEW, 5))]
    sheet = styles_sheet(results, "view")
    assert sheet.size == (10 + 4 * 266, 10 + 2 * (266 + 25))
    for k in range(5):
        assert (tile_at(sheet, 1 + k % 3, 35 + k // 3 * 291) == 10 * k).all()
        words = np.asarray(sheet)[10 + k // 3 * 291 :][:25, 10 + (1 + k % 3) * 266 :][:, :60]
        assert words.min() < 100


def test_a_morph_goes_from_a_seed_to_another() -> None:
    layouts = morph(VIEW, "sea-1", to_seed=9, steps=3)
    assert [layout.objects[1].style for layout in layouts] == [Mix(5, 9, share) for share in (0, 0.5, 1)]
    assert [layout.objects[0] for layout in layouts] == [VIEW.objects[0]] * 3
    first, middle, last = (codes.objects for codes in style_codes(layouts))
    np.testing.assert_array_equal(first, style_codes([VIEW])[0].objects)
    np.testing.assert_array_equal(last[1], style_codes([replace(VIEW, seed=9)])[0].objects[1])
    np.testing.assert_allclose(middle, (first + last) / 2, atol=1e-6)


def test_a_whole_picture_morphs_to_the_next_seed() -> None:
    layouts = morph(replace(VIEW, seed=MAX_SEED), steps=2, path="spherical")
    assert [layout.style for layout in layouts] == [Mix(MAX_SEED, 0, share, "spherical") for share in (0, 1)]
    own = replace(VIEW.objects[0], seed=12)
    (start, _) = morph(replace(VIEW, objects=(own,)), own.id, steps=2)
    assert start.objects[0].style == Mix(12, 13, 0)


@pytest.mark.parametrize(
    ("layout", "object_id", "words"),
    [
        (VIEW, "boat", "no object has the id 'boat'; there are: sky-1, sea-1"),
        (replace(VIEW, style=Mix(1, 2, 0.5)), "sky-1", "give the layout a seed"),
        (replace(VIEW, style=Mix(1, 2, 0.5)), None, "give the layout a seed"),
        (
            replace(VIEW, objects=(replace(VIEW.objects[0], style=Mix(1, 2, 0.5)),)),
            "sky-1",
            "give the object 'sky-1' a seed",
        ),
    ],
)
def test_a_morph_needs_an_object_and_a_seed(layout: Layout, object_id: str | None, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        morph(layout, object_id)


def test_a_strip_wraps_after_eight_images() -> None:
    results = [result(layout, 10 * k) for k, layout in enumerate(morph(VIEW, "sky-1", steps=10))]
    sheet = morph_strip(results, "sky-1")
    assert sheet.size == (10 + 9 * 266, 10 + 4 * 266 + 2 * 25)
    assert (tile_at(sheet, 8, 35) == 70).all()
    assert (tile_at(sheet, 2, 35 + 2 * 266 + 25) == 90).all()


def test_an_animation_goes_there_and_back() -> None:
    animation = Image.open(io.BytesIO(morph_animation([result(VIEW, level) for level in (0, 100, 200)])))
    assert (animation.info["loop"], animation.size) == (0, (256, 256))
    levels = [np.asarray(frame.convert("L")).mean() for frame in ImageSequence.Iterator(animation)]
    np.testing.assert_allclose(levels, [0, 100, 200, 100], atol=3)


def test_a_comparison_shows_where_images_differ() -> None:
    boat = {"label": "boat", "box": [0.25, 0.5, 0.25, 0.25], "id": "b"}
    layouts = [Layout.parse({"objects": [SKY, SEA, boat | {"box": [x, 0.5, 0.25, 0.25]}]}) for x in (0.25, 0.5)]
    before, after = result(layouts[0], 50), result(layouts[1], 50)
    assert before.image is not None
    assert after.image is not None
    after.image[48:, 48:] = 250
    levels = level_changes(before.image, after.image)
    sheet = comparison_sheet(before, after, changes(*layouts), levels, ["moved: b", "word " * 200])
    assert sheet.size == (10 + 4 * 266, 10 + 2 * (266 + 25))
    assert (tile_at(sheet, 1, 35) == 50).all()
    heat = tile_at(sheet, 3, 35)
    assert tuple(heat[240, 240]) == (252, 255, 164)  # the brightest: 200 levels
    assert tuple(heat[100, 20]) == (0, 0, 4)
    assert (heat[191, 66:126] == 255).all()  # the lower sides of both boxes
    assert (heat[191, 130:190] == 255).all()
    assert (tile_at(sheet, 3, 326)[:190] < 100).any()


def test_commands_write_figures_with_their_provenance(cli: Cli, tiny_repository: Path, tmp_path: Path) -> None:
    model = tiny_repository / "lostgan_128"
    shared = ("--model", model, "--out", tmp_path / "out")
    many = cli("styles", COAST, "--samples", 3, "--seed", 40, *shared, check=True)
    path = tmp_path / "out" / "coast.styles.png"
    assert many.stdout.split() == [str(path)]
    assert "untrained" in many.stderr
    provenance = provenance_of(path)
    assert provenance is not None
    assert [layout["seed"] for layout in provenance["layouts"]] == [40, 41, 42]

    changing = cli("morph", COAST, "--object", "walker", "--to-seed", 9, "--steps", 3, *shared, check=True)
    strip, animation = (tmp_path / "out" / f"coast.morph.{kind}" for kind in ("png", "webp"))
    assert changing.stdout.split() == [str(strip), str(animation)]
    provenance = provenance_of(strip)
    assert provenance is not None
    mixes = [layout["objects"][-1]["style"] for layout in provenance["layouts"]]
    assert mixes == [{"from": 12, "to": 9, "mix": share} for share in (0, 0.5, 1)]
    assert len(list(ImageSequence.Iterator(Image.open(animation)))) == 4

    (first,) = generate([Layout.load(COAST)], open_runner("onnxrt", model))
    assert first.image is not None
    drawn = tile_at(Image.open(strip), 1, 35).astype(int)
    expected = Image.fromarray(first.image).resize((256, 256), Image.Resampling.LANCZOS)
    assert np.abs(drawn - np.asarray(expected)).max() <= 2

    edited = json.loads(COAST.read_text())
    edited["objects"][-1]["box"][0] += 100
    after = tmp_path / "edited.json"
    after.write_text(json.dumps(edited))
    compared = cli("compare", COAST, after, *shared, check=True)
    lines = compared.stdout.splitlines()
    assert lines[0] == "moved: walker"
    assert lines[1].startswith("mean change in levels of 255: ")
    assert lines[2:] == [str(tmp_path / "out" / "coast-edited.compare.png")]
    seeds = cli("compare", COAST, after, "--seed", 3, *shared, check=True)
    assert seeds.stdout.splitlines()[0] == "moved: walker"
    provenance = provenance_of(Path(lines[2]))
    assert provenance is not None
    assert [layout["seed"] for layout in provenance["layouts"]] == [3, 3]


def test_commands_refuse_bad_layouts_in_one_line(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    shared = ("--model", tiny_model, "--out", tmp_path / "out")
    two, unknown = tmp_path / "two.jsonl", tmp_path / "unknown.json"
    two.write_text('{"objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}\n' * 2)
    unknown.write_text('{"objects": [{"label": "sjy", "box": [0, 0, 1, 1]}]}')
    fails_in_one_line(cli("styles", two, *shared), [two, "holds 2 layouts"])
    fails_in_one_line(cli("morph", COAST, "--object", "nobody", *shared), [COAST, "'nobody'", "walker"])
    fails_in_one_line(cli("compare", COAST, unknown, *shared), [unknown, "'sjy'", "nearest: sky"])
    fails_in_one_line(cli("compare", "-", "-", *shared), ["standard input can be read only once"])
    assert not (tmp_path / "out").exists()
