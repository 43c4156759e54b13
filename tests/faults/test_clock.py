"""A wall clock that jumps by hours, days and years, forward and back, several times a second.

The clock is that of all processes of a test, whatever they are written in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import EXAMPLES
from faults.injectors import stepped_clock
from faults.load import ALL_LAYOUTS, compare_folders
from faults.trial import Trial

_STEPS_S = (0, 3600, -3600, 86_400, -86_400, 400_000_000, -400_000_000)
_PERIOD_MS = 300
_HELD_S = 8.0


@contextmanager
def clock_that_jumps(trial: Trial) -> Iterator[None]:
    """The clock jumps in all processes that the trial starts while the block runs."""
    trial.traces.environment |= stepped_clock(trial.folder, trial.draw, _STEPS_S, _PERIOD_MS)
    start = time.monotonic()
    yield
    trial.tally.faults += int((time.monotonic() - start) * 1000 / _PERIOD_MS)


@pytest.mark.long
def test_server_and_clients(trial: Trial) -> None:
    with clock_that_jumps(trial), trial.serve() as server, trial.load(*server.urls) as load:
        end = time.monotonic() + _HELD_S
        while time.monotonic() < end:
            load.answers(8)
        trial.client(server.urls[0]).finish(trial.pictures, trial.tally)


@pytest.mark.long
def test_generate(trial: Trial) -> None:
    out = trial.folder / "out"
    with clock_that_jumps(trial):
        done = trial.run("generate", *ALL_LAYOUTS, "--model", trial.model, "--out", out)
    assert done.returncode == 0, done.stderr
    compare_folders(out, trial.pictures, trial.tally)


@pytest.mark.long
def test_data_set(trial: Trial) -> None:
    words = ["synthesize", *EXAMPLES, "--per-layout", 4, "--shard-size", 5, "--model", trial.model, "--out"]
    right, out = trial.folder / "right", trial.folder / "set"
    assert trial.run(*words, right).returncode == 0
    with clock_that_jumps(trial):
        done = trial.run(*words, out)
    assert done.returncode == 0, done.stderr
    compare_folders(out, right, trial.tally)
