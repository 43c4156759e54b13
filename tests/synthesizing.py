"""Data sets that tests of `synthesize` make and read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import EXAMPLES
from lostgan_serve.layout import Layout
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.recipe import Choices, Recipe

FORMATS = ("coco", "yolo", "webdataset")
LAYOUTS = [Layout.load(path) for path in EXAMPLES]


def a_plan(runner: Runner, layouts: Sequence[Layout] = LAYOUTS, **recipe: Any) -> Plan:
    return Plan(layouts, Recipe(**({"per_layout": 2, "shard_size": 4} | recipe)), runner.manifest.capacity)


def make_set(folder: Path, runner: Runner) -> Path:
    """Two images of each example in three formats, in shards of four."""
    counts = synthesize(a_plan(runner), str(folder), runner, Choices(FORMATS))
    assert counts["images"] == 14
    return folder


def instances(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "annotations" / "instances.json").read_text("utf-8"))
    return value
