"""Parts of a running server, and its clients, are killed or stopped at random moments, while clients ask."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from faults.load import ClientCommand, Load
from faults.serving import Serve, can_listen
from faults.trial import Trial

KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT

SIGNALS = [pytest.param(KILL, id="killed"), pytest.param(STOP, id="stopped")]

_LATEST_S = 2.0
_HITS = 2
_STOPPED_S = 6.0
_ABANDONED_S = 7200


def strike(trial: Trial, server: Serve, load: Load, part: str, number: signal.Signals) -> None:
    """Hit a part at a random moment, and see that pictures go on to come."""
    time.sleep(trial.draw.uniform(0, _LATEST_S))
    if not server.hit(part, number):
        pytest.skip(f"this server has no {part}")
    trial.tally.faults += 1
    if part == "serve" and number == STOP:  # nobody but who stopped it can have it go on
        time.sleep(_STOPPED_S)
        server.hit(part, GO_ON)
    time.sleep(0.5)
    load.answers(8)


def strikes(trial: Trial, part: str, number: signal.Signals, hits: int = _HITS) -> None:
    with trial.serve() as server, trial.load(*server.urls) as load:
        client = trial.client(server.urls[0])
        for _ in range(hits):
            strike(trial, server, load, part, number)
        client.finish(trial.pictures, trial.tally)
    trial.tally.told += server.told
    assert server.process.returncode == 0, server.errors()
    assert all(map(can_listen, server.urls))


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("part", ["tritonserver", "stub", "gateway", "serve"])
def test_part_of_a_server(trial: Trial, part: str, number: signal.Signals) -> None:
    strikes(trial, part, number)


@pytest.mark.slow
def test_stub_is_killed_once(trial: Trial) -> None:
    strikes(trial, "stub", KILL, hits=1)


@pytest.mark.long
def test_next_start_cleans_up_after_a_server_that_was_killed_whole(trial: Trial) -> None:
    with trial.serve() as server, trial.load(*server.urls) as load:
        for _ in range(_HITS):
            time.sleep(trial.draw.uniform(0, _LATEST_S))
            server.kill_all()
            trial.tally.faults += 1
            load.answers(8)


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
def test_client(trial: Trial, number: signal.Signals) -> None:
    """A client that was killed is run again, and makes only what is missing; one that was stopped goes on."""
    with trial.serve() as server:
        client = trial.client(server.urls[0])
        for _ in range(_HITS):
            hit_client(trial, client, number)
        client.finish(trial.pictures, trial.tally)


def hit_client(trial: Trial, client: ClientCommand, number: signal.Signals) -> None:
    moment = client.files() + trial.draw.randint(1, 60)
    while client.process.poll() is None and client.files() < moment:
        time.sleep(0.005)
    if client.process.poll() is not None:
        return
    trial.tally.faults += 1
    client.process.send_signal(number)
    if number == STOP:
        time.sleep(_STOPPED_S)
        client.process.send_signal(GO_ON)
        return
    client.process.wait()
    for left in client.folder.glob(".tmp-*"):
        age(left)
    client.start()


def age(path: Path) -> None:
    """Have a file look as if it were of two hours ago: commands leave younger ones to whoever may be writing them."""
    then = time.time() - _ABANDONED_S
    os.utime(path, (then, then))
