"""layout.json: what is accepted, and the one clear line that everything else gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import EXAMPLES
from lostgan_serve.errors import LayoutError, VocabularyError
from lostgan_serve.layout import Layout, load_layouts, parse_layouts
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

SKY = {"label": "sky", "box": [0, 0, 1, 0.5]}


def test_pixels_become_shares_of_the_canvas() -> None:
    drawn = {
        "canvas": [640, 480],
        "seed": 7,
        "objects": [
            {"label": "sky", "box": [0, 0, 640, 240]},
            {"label": "person", "box": [160, 120, 320, 360], "id": "rider", "seed": 12},
        ],
    }
    layout = Layout.parse(drawn)
    assert layout.objects[0].box == (0, 0, 1, 0.5)
    assert layout.objects[1].box == (0.25, 0.25, 0.5, 0.75)
    assert [item.id for item in layout.objects] == ["sky-1", "rider"]
    assert [item.seed for item in layout.objects] == [None, 12]
    assert (layout.seed, layout.truncation) == (7, 2.0)


def test_default_ids_count_each_label_by_itself() -> None:
    objects = [SKY, {"label": "tree", "box": [0, 0, 1, 1]}, {"label": "tree", "box": [0, 0, 0.5, 1]}]
    assert [item.id for item in Layout.parse({"objects": objects}).objects] == ["sky-1", "tree-1", "tree-2"]


def test_a_box_may_stick_out_by_a_rounding_error() -> None:
    layout = Layout.parse({"objects": [{"label": "sky", "box": [0.66667, 0, 0.33334, 1]}]})
    x, _, width, _ = layout.objects[0].box
    assert x + width == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([], ["objects", "give at least one"]),
        ([{"box": [0, 0, 1, 1]}], ["objects[0].label", "missing"]),
        ([{"label": "sky"}], ["objects[0].box", "missing", "[x, y, width, height]"]),
        ([{"label": 3, "box": [0, 0, 1, 1]}], ["objects[0].label", "not 3"]),
        ([SKY | {"label": "a\ud800"}], ["objects[0].label", "unicode string"]),
        ([SKY | {"id": "a\nb"}], ["objects[0].id", "holds a control character"]),
        ([SKY | {"id": "\0"}], ["objects[0].id", "holds a control character"]),
        ([SKY, {"label": "sea", "box": [0, 0, 1]}], ["objects[1].box[3]", "four finite numbers"]),
        ([{"label": "sea", "box": [0, 0, 1, "1"]}], ["objects[0].box[3]", 'not "1"']),
        ([{"label": "sea", "box": [0, 0, 1, float("nan")]}], ["objects[0].box[3]", "not nan"]),
        ([{"label": "sea", "box": [0, 0, float("inf"), 1]}], ["objects[0].box[2]", "not inf"]),
        ([{"label": "sea", "box": [0, 0, 0, 1]}], ['objects[0].box ("sea")', "no area"]),
        ([{"label": "sea", "box": [0.5, 0, -0.5, 1]}], ['objects[0].box ("sea")', "no area"]),
        ([{"label": "sea", "box": [0, 0, 1e-300, 1]}], ["no area"]),
        ([{"label": "sea", "box": [0.5, 0, 1, 1]}], ["outside the canvas", "inside is [0.5, 0, 0.5, 1]"]),
        ([{"label": "sea", "box": [0, 0, 640, 480]}], ["[0, 0, 640, 480] lies outside the canvas", "give `canvas`"]),
        ([{"label": "sea", "box": [-3, 0, 1, 1]}], ["outside the canvas"]),
        ([SKY | {"id": "a"}, SKY | {"id": "a"}], ["objects[0].id 'a'", "stands 2 times"]),
        ([SKY | {"id": "__image__"}], ["objects[0].id", "background"]),
        ([SKY | {"seed": -1}], ["objects[0].seed", "whole number"]),
        ([SKY | {"seed": 1.5}], ["objects[0].seed", "whole number"]),
        ([SKY | {"a\nb": "x"}], ['objects[0]."a\\nb"', "unknown field"]),
        ([SKY | {"lable": "x"}], ["objects[0].lable", "unknown field", "`label`"]),
        (["sky"], ['objects[0]: input should be an object, not "sky"']),
    ],
)
def test_a_bad_object_is_named_with_its_fix(objects: list[Any], words: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout.parse({"objects": objects}, source="drawing.json")
    message = str(caught.value)
    assert message.startswith("drawing.json: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"canvas": [640]}, ["canvas[1]", "[width, height]"]),
        ({"canvas": [0, 480]}, ["canvas[0]", "not 0"]),
        ({"seed": "7"}, ["seed", 'not "7"']),
        ({"seed": 2**63}, ["seed", "whole number"]),
        ({"truncation": 0}, ["truncation", "from 0.05 to 8"]),
        ({"sead": 7}, ["sead", "unknown field", "`seed`"]),
    ],
)
def test_a_bad_field_is_named_with_its_fix(extra: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout.parse({"objects": [SKY], **extra})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [None, 7, "sky", [], [[]], {}, {"objects": {}}, {"objects": None}])
def test_what_is_no_layout_is_refused(value: Any) -> None:
    with pytest.raises(LayoutError):
        Layout.parse(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["objects", "label", "box", "id", "seed", "canvas", "truncation", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_a_layout_or_a_layout_error(value: Any) -> None:
    try:
        layout = Layout.parse(value)
    except LayoutError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= edge <= 1 for item in layout.objects for edge in item.box)


@given(st.text(max_size=60))
def test_any_text_is_layouts_or_a_layout_error(text: str) -> None:
    try:
        parse_layouts(text.encode(), "name", "source")
    except LayoutError as error:
        assert str(error).startswith("source")


def test_one_file_may_hold_one_layout_a_list_or_lines(tmp_path: Path) -> None:
    one = {"objects": [SKY]}
    pretty, listed, lines = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.jsonl"
    pretty.write_text(json.dumps(one, indent=2))
    listed.write_text(json.dumps([one, one]))
    lines.write_text("\n".join(json.dumps(one) for _ in range(10)) + "\n\n")
    assert [layout.name for layout in load_layouts(pretty)] == ["a"]
    assert [layout.name for layout in load_layouts(listed)] == ["b-1", "b-2"]
    assert [layout.name for layout in load_layouts(lines)] == [f"c-{n:02}" for n in range(1, 11)]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text(json.dumps({"objects": [SKY]}) + "\n" + '{"objects": []}\n')
    with pytest.raises(LayoutError, match=r"many\.jsonl line 2: objects"):
        load_layouts(path)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    one = json.dumps({"objects": [SKY | {"id": "a\u2028b"}]}, ensure_ascii=False)
    layouts = parse_layouts(f"{one}\r\n{one}\r\n".encode(), "name", "source")
    assert [layout.objects[0].id for layout in layouts] == ["a\u2028b"] * 2


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"objects": [SKY]}), encoding="utf-8-sig")
    assert Layout.load(path).objects[0].label == "sky"


def test_long_texts_are_shortened_in_messages() -> None:
    long = "x" * 200
    for objects in ([SKY | {"id": long}] * 2, [SKY | {"label": long, "box": [0, 0, 0, 0]}], [SKY | {long: 1}]):
        with pytest.raises(LayoutError) as caught:
            Layout.parse({"objects": objects})
        assert len(str(caught.value)) < 160
    with pytest.raises(VocabularyError) as unknown:
        Vocabulary.built_in("scenes").id_of(long)
    assert len(str(unknown.value)) < 160


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"objects": [', ["not JSON", "line 1 column 14"]),
        (b"", ["not JSON"]),
        (b"\xff\xfe\x00", ["not UTF-8", "at byte 0"]),
        (b'{\n"objects": []\n}\n{\n"objects": []\n}', ["not JSON", "one a line", "jq -c"]),
        (b'{"objects": []} x', ["not JSON", "mend the file there"]),
        (b"[" * 100_000, ["not a layout"]),
        (b'{"seed": ' + b"9" * 10_000 + b"}", ["not a layout"]),
        (b"[]", ["holds no layout"]),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(LayoutError) as caught:
        load_layouts(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no such file"):
        load_layouts(tmp_path / "none.json")
    with pytest.raises(LayoutError, match="is a folder"):
        load_layouts(tmp_path)


def test_vocabularies_have_the_ids_of_the_released_weights() -> None:
    coco, genome = Vocabulary.built_in("coco-stuff"), Vocabulary.built_in("visual-genome")
    assert (len(coco), len(genome)) == (184, 179)
    assert len(list(coco)) == 80 + 91
    ids = {"person": 1, "toothbrush": 90, "banner": 92, "sky-other": 157, "wood": 182}
    assert {name: coco.id_of(name) for name in ids} == ids
    assert (coco.slots, coco.background, genome.slots, genome.background) == (8, False, 31, True)
    assert genome.labels[0] == "__image__"


def test_a_general_coco_class_may_drop_its_ending() -> None:
    coco = Vocabulary.built_in("coco-stuff")
    assert coco.id_of("sky") == coco.id_of("sky-other")
    with pytest.raises(VocabularyError):
        coco.id_of("other")


@pytest.mark.parametrize(
    ("label", "near"),
    [
        ("persn", "person"),
        ("Sky", "sky"),
        ("skyy", "sky"),
        ("sjy", "sky"),
        ("xqzw", "`lostgan-serve"),
        ("trouser", "`lostgan-serve"),
    ],
)
def test_an_unknown_label_gets_the_nearest_names(label: str, near: str) -> None:
    with pytest.raises(VocabularyError, match=near):
        Vocabulary.built_in("scenes").id_of(label)


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_image_and_unused_ids_are_no_labels(name: str) -> None:
    vocabulary = Vocabulary.built_in(name)
    assert "__image__" not in list(vocabulary)
    for label in ("__image__", ""):
        with pytest.raises(VocabularyError):
            vocabulary.id_of(label)


def test_the_examples_are_layouts_of_scenes() -> None:
    assert len(EXAMPLES) >= 6
    scenes = Vocabulary.built_in("scenes")
    for path in EXAMPLES:
        layout = Layout.load(path)
        assert {scenes.id_of(item.label) for item in layout.objects} <= set(range(1, len(scenes)))
        assert len(layout.objects) <= scenes.slots
