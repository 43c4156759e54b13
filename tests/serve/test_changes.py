"""The difference of two layouts, and of their images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lostgan_serve.changes import changes, describe, in_boxes, level_changes
from lostgan_serve.layout import Layout

SKY: dict[str, Any] = {"label": "sky", "box": [0, 0, 1, 0.5]}
SEA: dict[str, Any] = {"label": "sea", "box": [0, 0.5, 1, 0.5]}
BOAT: dict[str, Any] = {"label": "boat", "box": [0.25, 0.5, 0.25, 0.25], "id": "b", "seed": 3}


def layout(*objects: dict[str, Any], **fields: Any) -> Layout:
    return Layout.parse({"objects": objects, **fields})


BEFORE = layout(SKY, SEA, BOAT)


def found(after: Layout) -> list[tuple[str, tuple[str, ...]]]:
    return [(change.name, change.kinds) for change in changes(BEFORE, after).objects]


@pytest.mark.parametrize(
    ("boat", "name", "kinds"),
    [
        ({"box": [0.5, 0.5, 0.25, 0.25]}, "b", ("moved",)),
        ({"box": [0.25, 0.5, 0.5, 0.25]}, "b", ("resized",)),
        ({"box": [0.2, 0.5, 0.3, 0.25]}, "b", ("moved", "resized")),
        ({"label": "car"}, "b (boat -> car)", ("relabelled",)),
        ({"seed": 4}, "b", ("restyled",)),
        (
            {"label": "car", "seed": 4, "box": [0, 0, 1, 1]},
            "b (boat -> car)",
            ("moved", "resized", "relabelled", "restyled"),
        ),
    ],
)
def test_each_kind_of_change_is_found(boat: dict[str, Any], name: str, kinds: tuple[str, ...]) -> None:
    difference = changes(BEFORE, layout(SKY, SEA, BOAT | boat))
    assert [(change.name, change.kinds) for change in difference.objects] == [(name, kinds)]
    assert difference.boxes == [(0.25, 0.5, 0.25, 0.25), tuple((BOAT | boat)["box"])]
    assert not difference.picture


def test_objects_come_and_go() -> None:
    bird, sun = {"label": "bird", "box": [0, 0, 0.1, 0.1]}, {"label": "sun", "box": [0.9, 0, 0.1, 0.1]}
    after = layout(sun, SEA, bird, BOAT)
    assert found(after) == [("sky-1", ("removed",)), ("sun-1", ("added",)), ("bird-1", ("added",))]


def test_reordering_pixels_and_the_same_style_said_otherwise_are_no_changes() -> None:
    pixels = [item | {"box": [side * 300 for side in item["box"]]} for item in (BOAT, SEA, SKY)]
    assert found(layout(*pixels, canvas=[300, 300])) == []
    assert found(layout(SKY | {"seed": 0}, SEA | {"style": {"from": 0, "to": 9, "mix": 0}}, BOAT)) == []
    assert not changes(BEFORE, BEFORE).picture


def test_a_seed_of_the_layout_restyles_all_that_have_none_and_the_picture() -> None:
    after = replace(BEFORE, seed=1)
    assert found(after) == [("sky-1", ("restyled",)), ("sea-1", ("restyled",))]
    assert changes(BEFORE, after).picture


def test_levels_inside_boxes_and_elsewhere() -> None:
    before = np.full((8, 8, 3), 100, np.uint8)
    after = before.copy()
    after[4:6, 2:4] = (130, 100, 40)
    levels = level_changes(before, after)
    assert levels[4, 2] == 30
    assert levels.sum() == 120
    assert describe(changes(BEFORE, layout(SKY, SEA, BOAT | {"seed": 4})), levels) == [
        "restyled: b",
        "mean change in levels of 255: 30.0 in the boxes that changed, 0.0 elsewhere",
    ]


def test_description_groups_changes_by_kind_and_tells_of_none() -> None:
    levels = np.zeros((8, 8), np.float32)
    after = replace(layout(SKY, SEA, BOAT | {"label": "car"}), seed=1)
    assert describe(changes(BEFORE, after), levels) == [
        "restyled: the picture as a whole, sky-1, sea-1",
        "relabelled: b (boat -> car)",
        "mean change in levels of 255: 0.0 in the boxes that changed",
    ]
    assert describe(changes(BEFORE, BEFORE), levels) == [
        "the layouts do not differ",
        "mean change in levels of 255: 0.0",
    ]


def test_boxes_hold_the_pixels_that_they_touch() -> None:
    inside = in_boxes([(0.25, 0.5, 0.25, 0.25), (0.9, 0.9, 0.1, 0.1)], 8)
    assert {tuple(place) for place in np.argwhere(inside).tolist()} == {(4, 2), (4, 3), (5, 2), (5, 3), (7, 7)}
    assert in_boxes([(0, 0, 1, 1)], 5).all()
    assert in_boxes([(1 / 3, 0, 1 / 3, 1)], 9).any(0).tolist() == [False] * 3 + [True] * 3 + [False] * 3
