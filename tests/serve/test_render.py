"""Pictures of results: their sizes and the meaning of their pixels."""

from __future__ import annotations

import numpy as np
import pytest

from lostgan_serve.colors import color_of
from lostgan_serve.contract import MAX_SLOTS, NO_OBJECT
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import Result
from lostgan_serve.render import layout_picture, object_picture, overlay


@pytest.fixture
def result() -> Result:
    """A 64 px picture: sky above, sea below, a bird in one corner, nothing in the last column."""
    objects = [
        {"label": "sky", "box": [0, 0, 1, 0.5]},
        {"label": "sea", "box": [0, 0.5, 1, 0.5]},
        {"label": "bird", "box": [0, 0, 0.25, 0.25], "id": "a/b: ü"},
    ]
    object_map = np.zeros((64, 64), np.uint8)
    object_map[32:] = 1
    object_map[:16, :16] = 2
    object_map[:, 63] = NO_OBJECT
    masks = np.stack([(object_map == slot) * np.uint8(255) for slot in range(3)])
    image = np.full((64, 64, 3), 100, np.uint8)
    names = ("sky-1", "sea-1", "a/b: ü")
    return Result(Layout.parse({"objects": objects}, name="view"), names, image, object_map, masks)


def test_every_kth_pixel_of_an_object_picture_is_the_object_map(result: Result) -> None:
    picture = object_picture(result)
    assert result.object_map is not None
    assert picture.mode == "P"
    pixels = np.asarray(picture)[:, :512]
    np.testing.assert_array_equal(pixels[::8, ::8], result.object_map)
    assert picture.width > 512
    colors = np.asarray(picture.convert("RGB"))
    assert tuple(colors[0, 0]) == color_of("bird")
    assert tuple(colors[0, 511]) == (0, 0, 0)


def test_an_overlay_tints_each_mask(result: Result) -> None:
    pixels = np.asarray(overlay(result)).astype(int)
    assert pixels.shape == (512, 512, 3)
    expected = 100 + 0.35 * (np.array(color_of("sea")) - 100)
    np.testing.assert_allclose(pixels[400, 300], expected, atol=1)
    np.testing.assert_allclose(pixels[300, 508], 100, atol=2)


def test_no_box_crosses_a_name_and_long_names_are_shortened() -> None:
    sky = {"label": "sky", "box": [0.4, 0.5, 0.6, 0.5], "id": "n" * 200}
    sea = {"label": "sea", "box": [0, 0.2, 0.45, 0.8]}  # its right side runs through sky's name
    alone, both = (np.asarray(layout_picture(Layout.parse({"objects": o}))) for o in ([sky], [sky, sea]))
    name = np.s_[258:270, 206:300]
    np.testing.assert_array_equal(alone[name], both[name])
    assert tuple(alone[262, 500]) != color_of("sky")


@pytest.mark.parametrize("corner", [(0, 0), (0.9, 0.95)])
def test_names_keep_clear_of_one_another(corner: tuple[float, float]) -> None:
    x, y = corner
    items = [{"label": label, "box": [x, y, 1 - x, 1 - y]} for label in ("sky", "tree", "person")]

    def tags(*objects: object) -> list[int]:
        """How much there is of each label's colour."""
        pixels = np.asarray(layout_picture(Layout.parse({"objects": objects})))
        return [int((pixels == color_of(label)).all(-1).sum()) for label in ("sky", "tree", "person")]

    assert min(tags(*items)) > 500  # a name's ground, less its letters


def test_legend_shows_as_many_objects_as_a_model_may_have(result: Result) -> None:
    names = tuple(f"object {n}" for n in range(MAX_SLOTS))
    picture = object_picture(Result(result.layout, names, result.image, result.object_map, result.masks))
    assert picture.height == 512
    legend = np.asarray(picture)[:, 512:]
    assert all((legend == slot).sum() > 60 for slot in range(MAX_SLOTS - 1))
    assert ((legend == 253).any(0)).sum() > 9 * 60  # text in ten columns


def test_a_drawing_has_the_stated_size(result: Result) -> None:
    assert layout_picture(result.layout, 200).size == (200, 200)


@pytest.mark.parametrize("name", ["骑手", "راكب", "घोड़ा", "🐴"])
def test_ids_of_any_script_are_drawn(name: str) -> None:
    item = {"label": "snow", "box": [0, 0, 1, 1]}
    drawn, blank = (np.asarray(layout_picture(Layout.parse({"objects": [item | {"id": i}]}))) for i in (name, "\u00a0"))
    assert np.abs(drawn.astype(int) - blank).max() > 200
