"""A wall clock that is set forward and back by hours, days and years: that of all processes of a test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import EXAMPLES
from faults.injectors import stepped_clock
from faults.load import ALL_LAYOUTS, Load, compare_folders
from faults.trial import Trial

_HOUR_S = 3600
_STEPS_S = (0, _HOUR_S, -_HOUR_S, 86_400, -86_400, 400_000_000, -400_000_000)
_PERIOD_MS = 300
_FOREVER_MS = 10**12
_STILL_S = 2.0


@contextmanager
def jumped(trial: Trial) -> Iterator[None]:
    """The clock of the trial's processes is off, or goes on to jump, while the block runs."""
    flag = trial.folder / "jumping"
    flag.touch()
    yield
    flag.unlink()


@pytest.mark.long
@pytest.mark.parametrize("step_s", [_HOUR_S, -_HOUR_S, 400_000_000])
def test_server_and_clients(trial: Trial, step_s: int) -> None:
    """The clock is set wrong under load, and later right again."""
    trial.traces.environment |= stepped_clock(trial.folder, trial.draw, [step_s], _FOREVER_MS)
    with trial.serve() as server, trial.load(*server.urls) as load:
        client = trial.client(server.urls[0])
        with jumped(trial):
            see_pictures_come(trial, load)
        see_pictures_come(trial, load)
        client.finish(trial.pictures, trial.tally)
    trial.tally.told += [*server.told, *server.errors().splitlines()]


def see_pictures_come(trial: Trial, load: Load) -> None:
    trial.tally.faults += 1
    time.sleep(_STILL_S)
    load.answers(40)


def jump_often(trial: Trial) -> None:
    """Have the clock jump several times a second where it is `jumped`."""
    trial.traces.environment |= stepped_clock(trial.folder, trial.draw, _STEPS_S, _PERIOD_MS)
    trial.tally.faults += 1


@pytest.mark.long
def test_generate(trial: Trial) -> None:
    out = trial.folder / "out"
    jump_often(trial)
    with jumped(trial):
        done = trial.run("generate", *ALL_LAYOUTS, "--model", trial.model, "--out", out)
    assert done.returncode == 0, done.stderr
    compare_folders(out, trial.pictures, trial.tally)


@pytest.mark.long
def test_data_set(trial: Trial) -> None:
    words = ["synthesize", *EXAMPLES, "--per-layout", 4, "--shard-size", 5, "--model", trial.model, "--out"]
    right, out = trial.folder / "right", trial.folder / "set"
    assert trial.run(*words, right).returncode == 0
    jump_often(trial)
    with jumped(trial):
        done = trial.run(*words, out)
    assert done.returncode == 0, done.stderr
    compare_folders(out, right, trial.tally)
