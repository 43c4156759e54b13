"""Machines with few file descriptors or little shared memory: a line that says so, or the right pictures."""

from __future__ import annotations

import time

import pytest

from faults.injectors import few_files, filled_shared_memory, little_shared_memory, no_more_files
from faults.load import ALL_LAYOUTS, compare_folders
from faults.trial import Trial

_HELD_S = 2.0


@pytest.mark.long
@pytest.mark.parametrize("count", [8, 16, 24, 32, 48, 64, 96])
def test_server_that_may_open_few_files(trial: Trial, count: int) -> None:
    serves_or_tells(trial, few_files(count), "open files", "escriptor", "ulimit")


@pytest.mark.long
@pytest.mark.parametrize("kib", [16, 512, 1100, 2048, 8192])
def test_server_with_little_shared_memory(trial: Trial, kib: int) -> None:
    serves_or_tells(trial, little_shared_memory(kib), "/dev/shm", "shared memory", "No space left")


def serves_or_tells(trial: Trial, prefix: list[str], *words: str) -> None:
    trial.tally.faults += 1
    server = trial.serve(prefix=prefix)
    if not server.start():
        trial.check_told(server.ended(), *words)
        return
    try:
        with trial.load(*server.urls) as load:
            load.answers(40)
    finally:
        server.stop()


@pytest.mark.long
@pytest.mark.parametrize("command", ["generate", "client"])
@pytest.mark.parametrize("count", [8, 12, 16, 24, 32, 64])
def test_commands_that_may_open_few_files(trial: Trial, command: str, count: int) -> None:
    trial.tally.faults += 1
    out = trial.folder / "out"
    with trial.serve() as server:
        where = ["--model", trial.model] if command == "generate" else ["--url", server.urls[0]]
        words = [command, *ALL_LAYOUTS, *where, "--out", out]
        done = trial.run(*words, prefix=few_files(count))
        if done.returncode:
            trial.check_told(done)
            trial.run(*words)  # goes on where the first had to stop
    compare_folders(out, trial.pictures, trial.tally)


@pytest.mark.long
@pytest.mark.parametrize("part", ["tritonserver", "gateway", "serve"])
def test_part_of_a_server_that_may_open_no_more_files(trial: Trial, part: str) -> None:
    with trial.serve() as server, trial.load(*server.urls) as load:
        for _ in range(2):
            pid = server.find(part)
            if pid is None:
                pytest.skip(f"this server has no {part}")
            with no_more_files(pid):
                trial.tally.faults += 1
                time.sleep(trial.draw.uniform(0, _HELD_S))
            load.answers(8)


@pytest.mark.long
def test_shared_memory_fills_up(trial: Trial) -> None:
    with trial.serve(prefix=little_shared_memory(32 * 1024)) as server:
        with filled_shared_memory(server.process.pid):
            trial.tally.faults += 1
            done = trial.run("client", *ALL_LAYOUTS, "--url", server.urls[0], "--out", trial.folder / "out")
            if done.returncode:
                trial.check_told(done)
        with trial.load(*server.urls) as load:
            load.answers(40)
