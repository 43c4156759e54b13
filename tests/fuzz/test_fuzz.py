"""Changed inputs of everything that takes input from outside: a few hundred of each, and all that once were finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ROOT
from fuzz.campaign import campaign, table
from fuzz.guard import Find, tried
from fuzz.killer import open_killer
from fuzz.mutations import of_bytes
from fuzz.registry import TARGETS
from fuzz.targets import Fuzzed, Materials
from lostgan_serve.errors import LayoutError

CORPUS = Path(__file__).parent / "corpus"

EXAMPLES_OF = {"visual-genome": 60, "checkpoint": 60, "onnx": 60}
"""How many inputs are tried, 200 where nothing is said: those of slow targets are fewer."""

Open = Callable[[str], Fuzzed]


@pytest.fixture(scope="module")
def opened(tiny_repository: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Opens a target by its name, once."""
    known: dict[str, Fuzzed] = {}

    def open_once(name: str) -> Fuzzed:
        if name not in known:
            scratch = tmp_path_factory.mktemp("scratch")
            known[name] = TARGETS[name](Materials(tiny_repository / "lostgan_128", small_checkpoint, scratch))
        return known[name]

    return open_once


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_accepted(name: str, opened: Open) -> None:
    for seed in opened(name).seeds:
        assert tried(opened(name).target, seed) is None


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_refused_or_give_whole_results(name: str, opened: Open) -> None:
    fuzzed = opened(name)

    @settings(
        max_examples=EXAMPLES_OF.get(name, 200),
        deadline=None,
        derandomize=True,  # `make fuzz` looks for new ones
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def try_one(random: Random) -> None:
        tried(fuzzed.target, fuzzed.mutate(random, fuzzed.seeds))

    try_one()


@pytest.mark.parametrize("name", sorted(f"{path.parent.name}/{path.name}" for path in CORPUS.glob("*/*")))
def test_hostile_inputs_and_former_finds_are_refused_or_give_whole_results(name: str, opened: Open) -> None:
    tried(opened(name.partition("/")[0]).target, (CORPUS / name).read_bytes())


def test_a_label_that_stands_very_often_is_refused_soon(opened: Open) -> None:
    manifest = json.loads(opened("manifest").seeds[0])
    manifest["vocabulary"]["labels"] += ["again"] * 100_000
    assert tried(opened("manifest").target, json.dumps(manifest).encode()) == "ModelError"


# What is a find


def a_crash(data: bytes) -> None:
    if data:
        raise IndexError(data)


def two_lines(data: bytes) -> None:
    raise LayoutError("one\nand another")


def a_loop(data: bytes) -> None:
    while True:
        time.sleep(0.01)


def a_glutton(data: bytes) -> None:
    assert bytearray(700 << 20)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (a_crash, "IndexError at test_fuzz.py"),
        (two_lines, "a message that is not one line"),
        (a_loop, "too slow"),
        (a_glutton, "too much memory"),
    ],
)
def test_what_is_neither_refused_nor_whole_is_a_find(
    target: Callable[[bytes], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz.guard.LIMIT_S", 0.5 if target is a_loop else 10)
    with pytest.raises(Find, match=kind):
        tried(target, b"x")


# Long runs


def test_a_long_run_goes_on_after_a_crash_and_keeps_the_input(tmp_path: Path) -> None:
    lengths = [Random(f"13/{index}").randrange(6) for index in range(8)]
    assert (lengths.count(3), lengths.count(5)) == (2, 1)
    row = campaign("killer", open_killer, Materials(tmp_path, tmp_path, tmp_path), 8, 13, tmp_path / "finds")
    assert (row.tried, row.refused, row.accepted) == (8, 0, 5)
    assert sorted(row.kinds.values()) == [1, 2]
    kept = [path.read_bytes() for path in (tmp_path / "finds/killer").iterdir() if not path.suffix]
    assert sorted(kept) == [b"xxx", b"xxxxx"]
    assert "| killer | 8 | 0 | 5 | 3 |" in table([row])
    assert "find: killer: the process ended with -11 (1 times)" in table([row])


def test_the_same_seed_makes_the_same_inputs() -> None:
    made = [[of_bytes(Random(f"7/{index}"), [b"some valid input"]) for index in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 30


@pytest.mark.long
def test_the_command_prints_a_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz", "layout", "--count", "30", "--finds", str(tmp_path / "finds")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "| layout | 30 |" in done.stdout
    assert not (tmp_path / "finds").exists()
