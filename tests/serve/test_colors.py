"""Colours of classes: apart from one another, legible, and always the same."""

from __future__ import annotations

import numpy as np
import pytest

from lostgan_serve.colors import BLACK, PAPER, Color, color_of, object_colors, oklab, text_on
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

ALL_LABELS = [label for name in BUILT_IN_NAMES for label in Vocabulary.built_in(name)]
NOTICEABLE = 0.02  # a distance in OKLab that people just see


def smallest_distance(colors: list[Color]) -> float:
    places = oklab(colors)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(distances[~np.eye(len(colors), dtype=bool)].min())


def luminance(color: Color) -> float:
    """As WCAG 2 defines it."""
    shares = [level / 255 for level in color]
    light = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_classes_of_a_vocabulary_are_apart(vocabulary: str) -> None:
    colors = [color_of(label) for label in Vocabulary.built_in(vocabulary)]
    assert smallest_distance([*colors, BLACK, PAPER]) > 2.5 * NOTICEABLE


def test_oklab_has_its_published_values() -> None:
    expected = [
        [1.0, 0.0, 0.0],
        [0.62796, 0.22486, 0.12585],
        [0.86644, -0.23389, 0.17950],
        [0.45201, -0.03246, -0.31153],
    ]
    np.testing.assert_allclose(oklab([(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]), expected, atol=2e-5)


def test_a_label_has_the_same_color_in_any_layout_and_order() -> None:
    one, other = object_colors(["sky", "sea", "bird"]), object_colors(["bird", "tree", "sky"])
    assert (one[0], one[2]) == (other[2], other[0]) == (color_of("sky"), color_of("bird"))
    assert color_of("sky-other") == color_of("sky")


def test_colors_are_those_of_earlier_releases() -> None:
    """Pinned: a vocabulary's labels, an own label, and what another release or platform gives must not differ."""
    pinned = {
        "sky": (90, 165, 240),
        "person": (210, 60, 45),
        "zebra": (0, 165, 150),
        "wood": (180, 0, 255),
        "eye glass": (45, 105, 240),
        "unicorn": (45, 195, 195),
        "__image__": (128, 128, 128),
    }
    assert {label: color_of(label) for label in pinned} == pinned


def test_objects_of_a_class_are_shades_of_it() -> None:
    for label in ALL_LABELS:
        shades = object_colors([label] * 4)
        assert shades[0] == color_of(label)
        assert smallest_distance(shades) > NOTICEABLE, label


def test_text_on_any_color_has_the_contrast_that_wcag_asks() -> None:
    for label in ALL_LABELS:
        for color in object_colors([label] * 4):
            dark, light = sorted((luminance(color), luminance(text_on(color))))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (label, color)
