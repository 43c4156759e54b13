"""Plans of `synthesize`: pure functions of layouts, recipe and seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import LayoutError
from lostgan_serve.layout import Layout, LayoutObject, Mix
from lostgan_serve.synthesize.plan import Plan, summarize
from lostgan_serve.synthesize.recipe import Filters, Jitter, Recipe, Variation
from lostgan_serve.synthesize.sources import read_sources


def layout(*labels: str, name: str = "layout") -> Layout:
    """Objects side by side, each a tenth of the canvas wide."""
    objects = [LayoutObject(label, (0.1 * k, 0.2, 0.1, 0.5), f"{label}-{k}") for k, label in enumerate(labels)]
    return Layout(tuple(objects), name=name)


LAYOUTS = [layout("sky", "sea", "boat"), layout("sky", "sea"), layout("sky", "tree", "house"), layout("sky", "tree")]


def planned(layouts: Sequence[Layout] = LAYOUTS, **recipe: Any) -> Plan:
    return Plan(layouts, Recipe(**recipe), capacity=8)


def test_a_plan_is_a_function_of_its_inputs() -> None:
    choices: dict[str, Any] = {"per_layout": 3, "jitter": Jitter(0.2, 0.3, 0.5), "variation": Variation(0.5, 0.5, 0.5)}
    one, other = planned(**choices), planned(**choices)
    assert one.digest() == other.digest()
    assert list(one.rows()) == list(other.rows())
    assert one.row(7) == list(one.rows())[7]  # whatever was asked for before
    for changed in (
        planned(**choices, seed=1),
        planned(LAYOUTS[:3], **choices),
        planned(**(choices | {"per_layout": 2})),
    ):
        assert changed.digest() != one.digest()
    assert [row.layout for row in planned(**choices, seed=1).rows()] != [row.layout for row in one.rows()]


def test_without_choices_layouts_are_as_given_and_styles_their_own() -> None:
    rows = list(planned(per_layout=2, shard_size=3).rows())
    assert [row.layout for row in rows] == [one for one in LAYOUTS for _ in range(2)]
    assert [row.copy for row in rows] == [0, 1] * 4
    assert [row.shard for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2]
    seeds = [row.with_style(0, attempt).seed for row in rows for attempt in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert len({row.with_style(1, 0).seed for row in rows} & set(seeds)) == 0


def test_objects_keep_styles_of_their_own() -> None:
    pinned = replace(
        LAYOUTS[0], style=Mix(1, 2, 0.5), objects=(replace(LAYOUTS[0].objects[0], seed=5), *LAYOUTS[0].objects[1:])
    )
    styled = planned([pinned]).row(0).with_style(0, 0)
    assert styled.style is None
    assert styled.objects == pinned.objects


def test_shards_hold_all_rows_once() -> None:
    plan = planned(per_layout=5, shard_size=6)
    assert plan.shards == 4
    assert [row.index for number in range(plan.shards) for row in plan.shard(number)] == list(range(20))
    assert plan.images_of([0, 3]) == 6 + 2


@given(
    x=st.floats(0, 0.9),
    width=st.floats(0.01, 1),
    shift=st.floats(0, 1),
    scale=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_jitter_keeps_boxes_in_the_canvas_and_within_its_bounds(
    x: float, width: float, shift: float, scale: float, seed: int
) -> None:
    width = min(width, 1 - x)
    start = Layout((LayoutObject("sky", (x, 0.25, width, 0.5), "sky-1"),))
    found = planned([start], jitter=Jitter(shift, scale), seed=seed).row(0).layout.objects[0].box
    assert min(found[:2]) >= 0
    assert found[0] + found[2] <= 1 + 1e-9
    assert found[1] + found[3] <= 1 + 1e-9
    assert min(found[2:]) > 0
    assert found[2] <= width * (1 + scale) + 4e-4 + 1e-9
    middle = found[0] + found[2] / 2
    reach = shift * width + width * scale  # a side that is cut at the canvas moves the middle, too
    assert abs(middle - (x + width / 2)) <= reach + 4e-4 + 1e-9
    Layout.parse(replace(start, objects=(replace(start.objects[0], box=found),)).to_json())


def test_flip_mirrors() -> None:
    mirrored = planned(jitter=Jitter(flip=1)).row(0).layout
    assert [item.box[0] for item in mirrored.objects] == pytest.approx([0.9, 0.8, 0.7])
    assert [item.box[1:] for item in mirrored.objects] == [item.box[1:] for item in LAYOUTS[0].objects]


def test_objects_are_dropped_swapped_and_added_by_what_occurs_together() -> None:
    rows = list(planned(per_layout=200, variation=Variation(add=1)).rows())
    beside = {frozenset(("sky", "sea", "boat")): {"sky", "sea", "boat", "tree", "house"}}
    added = Counter(row.layout.objects[-1].label for row in rows if row.index < 200)
    assert set(added) <= beside[frozenset(item.label for item in LAYOUTS[0].objects)]
    assert added["sky"] > added["sea"] > added["house"]  # of the layouts with sky all have sky, half have sea
    assert all(row.layout.objects[-1].id == "added-1" for row in rows)
    dropped = [row.layout for row in planned(per_layout=50, variation=Variation(drop=1)).rows()]
    assert [len(one.objects) for one in dropped] == [len(one.objects) - 1 for one in LAYOUTS for _ in range(50)]
    for row in planned(per_layout=50, variation=Variation(swap=1)).rows():
        before = LAYOUTS[row.index // 50]
        changed = [(a, b) for a, b in zip(before.objects, row.layout.objects, strict=True) if a != b]
        assert [(a.id, a.box) for a, _ in changed] == [(b.id, b.box) for _, b in changed]
        assert len(changed) == 1


def test_adding_stops_at_the_model_s_capacity() -> None:
    full = Plan([LAYOUTS[0]], Recipe(variation=Variation(add=1)), capacity=3)
    assert len(full.row(0).layout.objects) == 3


def test_balance_reaches_its_target_for_every_label() -> None:
    plan = planned(balance=5)
    counts = Counter(item.label for row in plan.rows() for item in row.layout.objects)
    assert min(counts.values()) == 5
    assert counts["boat"] == counts["house"] == 5
    assert [row.layout for row in plan.rows() if row.copy == 0] == LAYOUTS  # nothing is taken away


def test_filters_of_layouts() -> None:
    small = replace(LAYOUTS[0], objects=(*LAYOUTS[0].objects, LayoutObject("sun", (0.5, 0.1, 0.05, 0.05), "sun-1")))
    twice = replace(LAYOUTS[1], objects=(*LAYOUTS[1].objects, replace(LAYOUTS[1].objects[0], id="again")))
    nothing = Layout((LayoutObject("sun", (0.5, 0.1, 0.01, 0.01), "sun-1"),))
    plan = planned([small, twice, nothing], filters=Filters(min_box=0.01, max_overlap=0.9))
    assert [row.refused for row in plan.rows()] == [None, "max_overlap", "min_box"]
    assert plan.row(0).layout.objects == LAYOUTS[0].objects
    summary = summarize(plan)
    assert (summary.layouts, summary.images, summary.dropped) == (3, 1, 2)
    assert summary.refused == {"max_overlap": 1, "min_box": 1}
    assert summary.objects["sun"] == (2, 0)
    assert summary.objects["sky"] == (3, 1)


# sources


def coco(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "images": [
            {"id": 7, "width": 200, "height": 100, "file_name": "train/a.jpg"},
            {"id": 9, "width": 10, "height": 10},
        ],
        "categories": [{"id": 3, "name": "sky"}, {"id": 5, "name": "sea"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 50], "segmentation": [[1, 2, 3]]},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [150, 90, 100, 50]},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [10, 10, 0, 5]},
            {"id": 4, "image_id": 7, "category_id": 5, "bbox": [10, 10, 9, 5], "iscrowd": 1},
        ],
    }
    return value | changes


def test_layouts_of_a_coco_set(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco()), "utf-8")
    sources = read_sources([path], capacity=8)
    (found,) = sources.layouts
    assert found.name == "a"
    assert [(item.label, item.id) for item in found.objects] == [("sky", "sky-1"), ("sky", "sky-2")]
    assert [item.box for item in found.objects] == [(0, 0, 0.5, 0.5), pytest.approx((0.75, 0.9, 0.25, 0.1))]
    assert sources.left_out == {"boxes without an area in the image": 1, "crowds": 1, "images without objects": 1}
    with pytest.raises(LayoutError, match=r"no layout is left .*1 images with over 1 objects"):
        read_sources([path], capacity=1)


def test_layout_files_and_sets_together(tmp_path: Path) -> None:
    one, lines, whole = tmp_path / "one.json", tmp_path / "lines.jsonl", tmp_path / "set.json"
    one.write_text(json.dumps(LAYOUTS[0].to_json()), "utf-8")
    lines.write_text("".join(json.dumps(each.to_json()) + "\n" for each in LAYOUTS[1:]), "utf-8")
    whole.write_text(json.dumps(coco()), "utf-8")
    found = read_sources([lines, one, whole], capacity=8).layouts
    assert [each.name for each in found] == ["lines-1", "lines-2", "lines-3", "one", "a"]
    ids = [[item.id for item in each.objects] for each in found[:4]]
    assert ids == [[item.id for item in each.objects] for each in (*LAYOUTS[1:], LAYOUTS[0])]


BROKEN = {
    "annotations[1].bbox[2]": coco(
        annotations=[*coco()["annotations"][:1], {"image_id": 7, "category_id": 3, "bbox": [0, 0, "w", 1]}]
    ),
    "annotations[0].category_id: 4": coco(annotations=[{"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}]),
    "annotations[0].image_id: 8": coco(annotations=[{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}]),
    "images[0].width": coco(images=[{"id": 7, "width": 0, "height": 3}]),
    "categories": {name: value for name, value in coco().items() if name != "categories"},
    "categories[0].name": coco(categories=[{"id": 3, "name": ""}]),
}


@pytest.mark.parametrize("place", BROKEN)
def test_a_broken_record_is_named(place: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(BROKEN[place]), "utf-8")
    with pytest.raises(LayoutError) as caught:
        read_sources([path], capacity=8)
    assert str(caught.value).startswith(f"{path}: {place}")


def test_a_file_cut_off_and_one_that_is_missing(tmp_path: Path, cli: Cli, tiny_model: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco())[:-20], "utf-8")
    out = tmp_path / "out"
    fails_in_one_line(cli("synthesize", path, "--model", tiny_model, "--out", out), [path, "Invalid JSON"])
    fails_in_one_line(cli("synthesize", tmp_path / "no.json", "--model", tiny_model, "--out", out), ["no.json"])
    assert not out.exists()


def test_plan_only(tmp_path: Path, cli: Cli, tiny_model: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "layouts.jsonl"
    path.write_text("".join(json.dumps(each.to_json()) + "\n" for each in LAYOUTS), "utf-8")
    command = [
        "synthesize",
        path,
        "--model",
        tiny_model,
        "--balance",
        3,
        "--jitter",
        "shift=0.1,flip=0.5",
        "--plan-only",
    ]
    lines, table = tmp_path / "plan.jsonl", tmp_path / "plan.parquet"
    done = cli(*command, lines, check=True)
    assert "images: 8" in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("boat")] == [["boat", "1", "3"]]
    cli(*command, table, check=True)
    records = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    columns = pyarrow.parquet.read_table(table).to_pylist()
    assert records == [row | {"layout": json.loads(row["layout"])} for row in columns]
    assert [record["row"] for record in records] == list(range(8))
    for record in records:
        Layout.parse(record["layout"])
    fails_in_one_line(cli(*command, tmp_path / "plan.csv"), ["plan.csv", ".parquet or .jsonl"])
