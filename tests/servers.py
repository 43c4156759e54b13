"""Processes that run `serve`, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = "lostgan_128"


def starting(repository: Path) -> subprocess.Popen[str]:
    """A process that is about to run `serve` on free ports; it has printed one line."""
    code = f"import sys; from pathlib import Path; from lostgan_serve.triton.server import serve; \
             print('starting'); sys.exit(serve(Path({str(repository)!r}), 0, 0, 0))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    assert process.stdout.readline() == "starting\n"
    return process


def serving(repository: Path) -> subprocess.Popen[str]:
    """A process that runs `serve` on free ports; it has printed its endpoints."""
    process = starting(repository)
    assert process.stdout
    assert any(line.startswith("Ctrl-C") for line in process.stdout)
    return process


def children(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return sorted(set(found))


def family(process: subprocess.Popen[str]) -> tuple[int, list[int]]:
    """The pids of a serving process's tritonserver and of its stubs."""
    (tritonserver,) = children(process.pid)
    stubs = children(tritonserver)
    assert stubs
    return tritonserver, stubs


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def shared_memory(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path("/dev/shm").glob(f"lostgan-serve-{process.pid}-*"))


@contextmanager
def leaves_nothing(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yields the pid of tritonserver; whatever the block does to it, nothing may be left of it 20 s later."""
    tritonserver, stubs = family(process)
    assert shared_memory(process)
    try:
        yield tritonserver
        end = time.monotonic() + 20
        while any(alive(pid) for pid in (process.pid, tritonserver, *stubs)) or shared_memory(process):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.kill()
