"""The figures of the bundled models in README and docs: those that were measured, of the weights that are bundled."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from lostgan_train.networks.bundled import bundled_checkpoint

BENCHMARKS = ROOT / "benchmarks"
EVALUATIONS = sorted(BENCHMARKS.glob("evaluation-scenes-*.json"))
NUMBER = re.compile(r"(\d+(?:\.(\d+))?)(%?)")


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of(page: Path, beginning: str) -> list[dict[str, str]]:
    """The rows of the page's table that begins so, by the heads of its columns."""
    lines = page.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(beginning))
    heads, rows = cells(lines[start]), []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(heads, cells(line), strict=True)))
    return rows


@pytest.mark.parametrize("path", [*EVALUATIONS, BENCHMARKS / "reconfiguration-scenes-128.json"], ids=lambda p: p.stem)
def test_what_was_measured_is_what_is_bundled(path: Path) -> None:
    model = read(path)["subject"]["model"]
    weights = bundled_checkpoint(model["resolution"]).read_bytes()
    assert model["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "evaluation.md"], ids=lambda p: p.stem)
def test_the_table_of_scores_is_what_was_measured(page: Path) -> None:
    scores = read(BENCHMARKS / "evaluation-scenes-128.json")["scores"]
    rows = rows_of(page, "| measured | score |")
    assert len(rows) > 5
    for row in rows:
        score = scores[row["score"].strip("`")]
        for head, measured in (("generated", score["value"]), ("real images", score["real"])):
            assert (measured is None) == (row[head] == ""), row
            if measured is not None:
                assert_rounded(row[head], measured, score)


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_the_table_of_resolutions_is_what_was_measured(path: Path) -> None:
    evaluation = read(path)
    rows = rows_of(ROOT / "docs" / "evaluation.md", "| score | 128 px |")
    assert len(rows) > 5
    for row in rows:
        score = evaluation["scores"][row["score"].strip("`")]
        cell = row[f"{evaluation['subject']['model']['resolution']} px"]
        assert_rounded(cell, score["value"], score)
        in_brackets = re.search(r"\((.+)\)", cell)
        assert (in_brackets is None) == (score["real"] is None), row
        if in_brackets:
            assert_rounded(in_brackets[1], score["real"], score)


def assert_rounded(cell: str, measured: float, score: dict[str, Any]) -> None:
    """A number, with as many digits as it has, is the one that was measured."""
    found = NUMBER.match(cell)
    assert found, cell
    factor = 100 if found[3] and score["facts"].get("unit") != "percent" else 1
    assert float(found[1]) == pytest.approx(round(measured * factor, len(found[2] or ""))), cell


@pytest.mark.parametrize("folder", sorted((ROOT / "triton_repo").iterdir()), ids=lambda folder: folder.name)
def test_the_model_repository_is_of_what_is_bundled(folder: Path) -> None:
    weights = bundled_checkpoint(int(folder.name.removeprefix("lostgan_"))).read_bytes()
    assert hashlib.sha256(weights).hexdigest() in (folder / "config.pbtxt").read_text("utf-8")
