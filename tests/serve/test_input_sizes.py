"""Sizes of inputs: limits hold before memory or time is spent, and each refusal is one line that comes quickly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import EXAMPLES, a_manifest, at_once, fails_in_one_line, run_cli
from lostgan_serve.contract import (
    INPUT_NAMES,
    MAX_CODE,
    MAX_COORDINATE,
    MAX_SLOTS,
    Array,
    Tensors,
    empty_batch,
    fault,
)
from lostgan_serve.encoding import encode
from lostgan_serve.errors import LayoutError, LostganError, RequestError
from lostgan_serve.layout import MAX_BRACKETS, MAX_CHARACTERS, Code, Layout, load_layouts, parse_layouts
from lostgan_serve.layout_schema import MAX_TRUNCATION
from lostgan_serve.runners import Runner
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.openvino import OpenVinoRunner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.styles import style_codes
from lostgan_serve.synthesize.sources import read_sources
from lostgan_serve.triton.server import running_server

SKY: dict[str, Any] = {"label": "sky", "box": [0.1, 0.1, 0.5, 0.5]}
SLOTS, LABELS = 4, 27


def objects(count: int) -> str:
    return json.dumps({"objects": [SKY] * count})


HOSTILE: dict[str, Callable[[], str]] = {
    "300,000 objects": lambda: objects(300_000),
    "100,000 bad objects": lambda: json.dumps({"objects": [{"lable": 1}] * 100_000}),
    "a key of 10 MB": lambda: json.dumps({"k" * 10_000_000: 1, "objects": [SKY]}),
    "a label of 10 MB": lambda: json.dumps({"objects": [SKY | {"label": "k" * 10_000_000}]}),
    "a key of 4 MB": lambda: json.dumps({"k" * 4_000_000: 1, "objects": [SKY]}),
    "100,000 keys": lambda: json.dumps({**{f"k{n}": 1 for n in range(100_000)}, "objects": [SKY]}),
    "100,000 keys of a style": lambda: json.dumps({"objects": [SKY | {"style": {f"k{n}": 1 for n in range(100_000)}}]}),
    "500,000 brackets": lambda: "[" * 500_000,
    "500,000 brackets that close": lambda: "[" * 500_000 + "]" * 500_000,
    "900 brackets for a label": lambda: json.dumps({"objects": [SKY]}).replace('"sky"', "[" * 900 + "]" * 900),
    "a number of 4 million digits": lambda: '{"seed": ' + "9" * 4_000_000 + "}",
    "a list of 8 million lists": lambda: "[" + "[]," * 8_000_000 + "[]]",
    "a list of 5 million numbers": lambda: "[" + "1," * 5_000_000 + "1]",
    "3 million lines": lambda: '{"objects":0}\n' * 3_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_of_layouts_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(HOSTILE[name]())
    with at_once(), pytest.raises(LayoutError, match=r"hostile\.json[: ]") as caught:
        load_layouts(path)
    message = str(caught.value)
    assert len(message) < 400
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a key of 10 MB", "500,000 brackets"])
def test_the_command_says_so_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(HOSTILE[name]())
    fails_in_one_line(run_cli("generate", path, "--out", tmp_path / "out"), [path])
    assert not (tmp_path / "out").exists()


def test_the_largest_layouts_there_are_pass() -> None:
    code = {"code": [-1.2345678901234567] * 128}
    largest = {"objects": [SKY | {"id": f"{'[' * 20}{n:0100}", "style": code} for n in range(MAX_SLOTS)]}
    text = json.dumps(largest, indent=4)
    assert len(parse_layouts(text.encode(), "a", "a")[0].objects) == MAX_SLOTS
    assert len(text) < MAX_CHARACTERS["layout"] / 2
    assert text.count("[") + text.count("{") < MAX_BRACKETS["layout"]
    assert len(parse_layouts(f"[{','.join([objects(8)] * 5000)}]".encode(), "a", "a")) == 5000


def test_a_layout_has_as_many_objects_as_a_model_can_have_slots() -> None:
    with pytest.raises(LayoutError, match=rf"objects: .* at most {MAX_SLOTS} items .*, and {MAX_SLOTS} at most"):
        Layout.parse({"objects": [SKY] * (MAX_SLOTS + 1)})


def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    with pytest.raises(LayoutError, match=r"large\.jsonl: is larger than 512 MiB"):
        load_layouts(tmp_path / "large.jsonl")


# annotations: large ones are read, and hostile ones refused


def coco(annotations: int, **changes: Any) -> dict[str, Any]:
    one = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], **changes}
    return {
        "images": [{"id": n, "width": 100, "height": 100} for n in range(1, annotations + 1)],
        "annotations": [{**one, "image_id": n} for n in range(1, annotations + 1)],
        "categories": [{"id": 1, "name": "sky"}],
    }


def test_annotation_files_have_no_limit_that_real_ones_meet(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    content = coco(20_000, segmentation=[[float(n) for n in range(200)]])
    path.write_text(json.dumps(content))
    assert path.stat().st_size > max(MAX_CHARACTERS.values()) / 2
    assert len(read_sources([path], 8).layouts) == 20_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(coco(100_000, bbox="x")), r"annotations\[0\]\.bbox"),
        ('{"annotations": ' + "[" * 500_000, "recursion limit"),
        (json.dumps({"annotations": 0, "k" * 10_000_000: 1}), "images: Field required"),
    ],
    ids=["100,000 bad annotations", "500,000 brackets", "a key of 10 MB"],
)
def test_hostile_annotations_are_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with at_once(), pytest.raises(LayoutError, match=rf"annotations\.json: .*{words}") as caught:
        read_sources([path], 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# tensors


def batch(name: str, place: tuple[int | slice, ...] = (), value: float = 0) -> dict[str, Array]:
    tensors = empty_batch(2, SLOTS)
    if name:
        tensors[name][place] = value
    return tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (batch("z_obj", (1, 3, 5), 1e38), "z_obj: values must be from -8 to 8"),
        (batch("z_obj", (0, 0, 0), -8.1), "z_obj: values must be from -8 to 8, not -8.1"),
        (batch("z_img", (1, 127), 17), "z_img: values must be from -8 to 8, not 17"),
        (batch("z_img", (0, 0), float("nan")), "z_img: holds a value that is not finite"),
        (batch("z_img", (slice(None), slice(3, 9)), float("nan")), "z_img: holds a value that is not finite"),
        (batch("z_obj", (0, 0, 0), float("-inf")), "z_obj: holds a value that is not finite"),
        (batch("boxes", (0, 0, 1), 1e30), "boxes: values must be from -1000 to 1000"),
        (batch("boxes", (0, 0, 2), 1001), "boxes: values must be from -1000 to 1000"),
        (batch("boxes", (0, 0, 3), 0), "boxes: width and height must be above 0"),
        (batch("labels", (1, 0), LABELS), "labels: ids must be 0 to 26, not 0 to 27"),
        (batch("labels", (1, 0), -1), "labels: ids must be 0 to 26, not -1 to 0"),
        (batch("") | {"z_img": np.zeros((1, 128), np.float32)}, "z_img 1: give all the same number of layouts"),
        (batch("") | {"boxes": np.zeros((2, SLOTS, 4))}, "boxes: float64"),
        (empty_batch(0, SLOTS), "labels 0, boxes 0, z_obj 0, z_img 0"),
        (empty_batch(1, SLOTS + 1), r"labels: int64 \(5,\) a layout, not int64 \(4,\)"),
        ({name: np.float32(1) for name in INPUT_NAMES}, "labels: float32"),
    ],
)
def test_tensors_out_of_bounds_are_named(tensors: Tensors, words: str) -> None:
    reason = fault(tensors, SLOTS, LABELS)
    assert reason is not None
    assert re.search(words, reason), reason


def test_bounds_themselves_are_in_bounds() -> None:
    tensors = empty_batch(2, SLOTS)
    tensors["z_obj"][0, 0], tensors["z_img"][0] = MAX_CODE, -MAX_CODE
    tensors["boxes"][0, 0] = MAX_COORDINATE
    assert fault(tensors, SLOTS, LABELS) is None


def test_no_style_of_a_layout_is_near_the_bound() -> None:
    """Mixed as far from either style as it goes, in both ways, with the weakest truncation that there is."""
    layouts = [
        Layout.parse(
            {
                "truncation": MAX_TRUNCATION,
                "style": {"from": 2 * n, "to": 2 * n + 1, "mix": 0.5, "path": ("linear", "spherical")[n % 2]},
                "objects": [SKY] * 10,
            }
        )
        for n in range(200)
    ]
    largest = max(float(np.abs(codes.objects).max()) for codes in style_codes(layouts))
    assert 3 < largest < 0.9 * MAX_CODE


@pytest.mark.parametrize("bad", [1e38, float("nan"), 20.0])
def test_a_layout_made_in_python_is_held_to_the_same_bounds(bad: float) -> None:
    good = Layout.load(EXAMPLES[0])
    first, *others = good.objects
    styled = replace(good, objects=(replace(first, style=Code((bad,) * 128)), *others), source="mine")
    boxed = replace(good, objects=(replace(first, box=(0.0, 0.0, max(bad, 2e3), 0.5)), *others), source="mine")
    manifest = a_manifest("scenes")
    for layout, name in ((styled, "z_obj"), (boxed, "boxes")):
        with pytest.raises(LostganError, match=rf"^mine: {name}: "):
            encode([good, layout], manifest)
    assert encode([good], manifest)["labels"].shape == (1, manifest.slots)


def test_every_door_refuses_them_alike(tiny_repository: Path) -> None:
    """In process, and in a server over gRPC and HTTP."""
    model = tiny_repository / "lostgan_128"
    with running_server(tiny_repository) as server:
        runners: list[Runner] = [
            OnnxRunner(model),
            OpenVinoRunner(model),
            *map(TritonRunner, (server.grpc, f"http://{server.http}")),
        ]
        for runner in runners:
            good = encode([Layout.load(EXAMPLES[0])], runner.manifest)
            for name, value in (("z_obj", 1e38), ("z_img", -9), ("boxes", 1e30)):
                bad = {key: array.copy() for key, array in good.items()}
                bad[name].flat[0] = value
                with pytest.raises(
                    RequestError, match=rf"{name}: values must be from .*, not {re.escape(f'{value:g}')}"
                ):
                    runner.run(bad, ("image",))
            assert runner.run(good, ("image",))["image"].std() > 0
            runner.close()


@pytest.mark.parametrize(
    "command", [("train", "--data", "data", "--out", "run", "--config"), ("report", "--out", "report.html")]
)
def test_brackets_in_other_files(command: tuple[str, ...], tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000, "utf-8")
    fails_in_one_line(run_cli(*command, deep, cwd=tmp_path), [deep, "brackets within brackets"])
    assert [path.name for path in tmp_path.iterdir()] == ["deep.json"]
