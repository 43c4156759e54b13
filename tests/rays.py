"""A Ray for tests, its processes, and the data sets that come of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lostgan_serve.processes import children
from servers import alive

CPUS, GPUS = 2, 1

_CLUSTER = f"""\
import sys, ray
ray.init(address="local", num_cpus={CPUS}, num_gpus={GPUS}, include_dashboard=False, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster() -> Iterator[int]:
    """A Ray with two CPUs and, as far as it knows, a GPU, for all commands and engines of the block. Yields the pid of
    the process that it belongs to. Its workers can import what this process can."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        command, pipe = [sys.executable, "-c", _CLUSTER, folder], subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdin
            assert process.stdout
            patch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
            yield process.pid
            process.stdin.close()


def workers(pid: int) -> list[int]:
    """The actors that make shards, among the descendants of a process."""
    return [below for below in descendants(pid) if "MapWorker" in title(below)]


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    found: list[int] = []
    with suppress(OSError):  # it is gone
        for child in children(pid):
            found += [child, *descendants(child)]
    return found


def title(pid: int) -> str:
    """The command line of a process, or what it has put in its place."""
    with suppress(OSError):  # it is gone
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
    return ""


def session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):  # it is gone
            if int((process / "stat").read_text("utf-8", "replace").rpartition(") ")[2].split()[3]) == leader:
                found.append(int(process.name))
    return [pid for pid in found if alive(pid)]
