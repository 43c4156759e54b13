"""The end of a session of processes, whatever they do meanwhile. Of the standard library alone, for a fast start."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_PATIENCE_S = 10.0


def end_session(leader: int, folder: Path) -> None:
    """Kill the processes of a session, but for this one, and remove the folder that they write to."""
    end = time.monotonic() + _PATIENCE_S
    while (pids := list(_alive(leader))) and time.monotonic() < end:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def end_own_session(folder: Path) -> NoReturn:
    """End the session that this process leads, and this process. It first lets go of all threads and libraries, which
    may not let it live as soon as the other processes are gone."""
    sys.stdout.flush()
    code = "import sys; sys.path = sys.argv[2:]; from lostgan_serve.synthesize import sessions; sessions.main()"
    os.execv(sys.executable, [sys.executable, "-c", code, str(folder), *sys.path])


def main() -> None:
    """Finish `end_own_session`."""
    end_session(os.getpid(), Path(sys.argv[1]))


def signal_at_parents_end(number: int) -> None:
    """Have the system send this process a signal when the one that started it is gone, where it can."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(1, number)  # 1 is PR_SET_PDEATHSIG


def _alive(leader: int) -> Iterator[int]:
    """The processes of a session that are alive, but for this one, as far as /proc tells."""
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):  # it is gone
            state, _, _, session = (process / "stat").read_text("utf-8", "replace").rpartition(") ")[2].split()[:4]
            if int(session) == leader and state not in "ZX" and int(process.name) != os.getpid():
                yield int(process.name)
