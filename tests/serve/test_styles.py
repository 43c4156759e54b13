"""Style codes: of seeds, of mixes and given whole; and that what stands beside an object does not touch its code."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import EXAMPLES, ROOT
from lostgan_serve.errors import LayoutError
from lostgan_serve.layout import Layout, load_layouts
from lostgan_serve.layout_schema import json_schema
from lostgan_serve.styles import StyleCodes, style_codes

Json = dict[str, Any]

SKY: Json = {"label": "sky", "box": [0, 0, 1, 0.5], "id": "above"}
SEA: Json = {"label": "sea", "box": [0, 0.5, 1, 0.5], "id": "below"}


def codes(*objects: Json, **fields: Any) -> StyleCodes:
    return style_codes([Layout.parse({"objects": list(objects), **fields})])[0]


def mix(share: float, path: str = "linear", start: int = 3, end: int = 9) -> Json:
    return {"from": start, "to": end, "mix": share, "path": path}


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_a_mix_begins_and_ends_at_the_styles_of_its_seeds(path: str) -> None:
    for share, seed in ((0, 3), (1, 9)):
        own, plain = (codes({**SKY, **style}).objects for style in ({"style": mix(share, path)}, {"seed": seed}))
        np.testing.assert_array_equal(own, plain)
        whole, all_plain = codes(SKY, SEA, style=mix(share, path)), codes(SKY, SEA, seed=seed)
        for name in ("image", "objects", "background"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(all_plain, name))


def test_the_linear_path_is_straight() -> None:
    first, last = (codes({**SKY, "seed": seed}).objects[0].astype(np.float64) for seed in (3, 9))
    middle = codes({**SKY, "style": mix(0.3)}).objects[0]
    np.testing.assert_allclose(middle, 0.7 * first + 0.3 * last, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("start", "end", "share"), [(3, 9, 0.25), (3, 9, 0.5), (1, 2, 0.9), (5, 5, 0.4)])
def test_the_spherical_path_turns_evenly_and_keeps_the_length(start: int, end: int, share: float) -> None:
    first, last = (codes({**SKY, "seed": seed}).objects[0].astype(np.float64) for seed in (start, end))
    found = codes({**SKY, "style": mix(share, "spherical", start, end)}).objects[0].astype(np.float64)
    lengths = np.linalg.norm([first, last, found], axis=1)
    assert lengths[2] == pytest.approx((1 - share) * lengths[0] + share * lengths[1], rel=1e-6)
    angle = np.arccos(min(1, first @ last / lengths[0] / lengths[1]))
    assert np.arccos(min(1, first @ found / lengths[0] / lengths[2])) == pytest.approx(share * angle, abs=1e-3)


def test_a_code_is_used_as_it_is() -> None:
    values = np.linspace(-8, 8, 128)
    found = codes({**SKY, "style": {"code": values.tolist()}}, truncation=0.1).objects[0]
    np.testing.assert_array_equal(found, values.astype(np.float32))


LINEAR = ["0x1.fc90940000000p-2", "0x1.7e4a340000000p-3", "-0x1.b3cb980000000p-1"]
SPHERICAL = ["0x1.27341e0000000p-1", "0x1.1241cc0000000p-2", "-0x1.30900e0000000p+0"]


def test_mixes_persist_bit_for_bit() -> None:
    """Of this release's codes: a change of one bit would change the pictures of layouts that people kept."""
    linear = codes({**SKY, "style": mix(0.4)}).objects[0]
    spherical = codes({**SKY, "style": mix(0.4, "spherical")}).objects[0]
    assert [value.hex() for value in map(float, linear[:3])] == LINEAR
    assert [value.hex() for value in map(float, spherical[:3])] == SPHERICAL


styles: st.SearchStrategy[Json] = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"seed": st.integers(0, 5)}),
    st.fixed_dictionaries({"style": st.builds(mix, st.floats(0, 1), st.sampled_from(["linear", "spherical"]))}),
)


@settings(max_examples=40, deadline=None)
@given(styles, styles, st.sampled_from(["first", "removed", "moved", "relabelled"]))
def test_an_object_keeps_its_style_whatever_happens_beside_it(own: Json, other: Json, change: str) -> None:
    sky, sea = {**SKY, **own}, {**SEA, **other}
    before = codes(sky, sea, seed=4).objects[0]
    after = {
        "first": [sea, sky],
        "removed": [sky],
        "moved": [sky, {**sea, "box": [0.1, 0.1, 0.2, 0.2]}],
        "relabelled": [sky, {**sea, "label": "snow"}],
    }[change]
    np.testing.assert_array_equal(codes(*after, seed=4).objects[after.index(sky)], before)


def test_the_schema_is_published() -> None:
    published = json.loads((ROOT / "docs" / "layout.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "write it anew: python -m lostgan_serve.layout_schema > docs/layout.schema.json"
    jsonschema.Draft202012Validator.check_schema(published)


VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_schema_takes_the_examples_and_all_that_is_written() -> None:
    for example in EXAMPLES:
        VALIDATOR.validate(json.loads(example.read_text(encoding="utf-8")))
        VALIDATOR.validate(load_layouts(example)[0].to_json())
    VALIDATOR.validate(Layout.parse({"objects": [{**SKY, "style": mix(0.4)}], "style": mix(0.1)}).to_json())


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.floats(-1, 9), st.sampled_from(["sky", "", "a\nb"])
)
a_style = st.dictionaries(
    st.sampled_from(["from", "to", "mix", "path", "code", "other"]),
    scalars | st.just("spherical") | st.lists(st.floats(-9, 9), min_size=127, max_size=128),
    max_size=4,
) | st.just(mix(0.5))
an_object = st.fixed_dictionaries(
    {"label": st.just("sky") | scalars, "box": st.just([0, 0, 1, 0.5]) | st.lists(st.integers(0, 1), max_size=5)},
    optional={"id": scalars, "seed": scalars, "style": scalars | a_style, "other": scalars},
)
a_layout = st.fixed_dictionaries(
    {"objects": st.lists(an_object, max_size=2) | scalars},
    optional={
        "seed": scalars,
        "style": scalars | a_style,
        "truncation": scalars,
        "canvas": st.just([1, 1]) | st.lists(scalars, max_size=3),
        "other": scalars,
    },
)
BEYOND_THE_SCHEMA = (
    *("outside the canvas", "has no area", "times; ids must differ", "half of a character"),
    "should be a valid integer",  # 3.0 is an integer to JSON Schema
)


@settings(max_examples=400, deadline=None)
@given(a_layout)
def test_schema_and_parser_agree(value: Json) -> None:
    try:
        Layout.parse(value)
        refused = ""
    except LayoutError as error:
        refused = str(error)
    if not any(words in refused for words in BEYOND_THE_SCHEMA):
        assert VALIDATOR.is_valid(value) == (not refused), refused
