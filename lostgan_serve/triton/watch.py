"""Noticing that a server no longer works although its process is there: tritonserver itself does not.

The Python backend runs each instance of a model in a child of tritonserver, which goes on to call itself healthy when
such a child died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.processes import children

_STALL_S = 60.0  # of a start
_IDLE_S = 5.0  # of a stop
_FAULT_S = 3.0  # tritonserver itself lets a child be dead for a moment when it unloads a model
_BUSY = 0.02  # share of a core; waiting processes poll, which takes less
_STATES = {"Z": "has died", "T": "has been stopped by a signal"}


@dataclass(frozen=True)
class _Process:
    """A process as /proc has it. state: a letter. cpu_s: the processor time that it has used."""

    pid: int
    state: str
    cpu_s: float


class FaultWatch:
    """Notices a process that is stopped, and children of it that are dead or stopped. name: of the process."""

    def __init__(self, pid: int, name: str = "tritonserver") -> None:
        self._pid, self._own_name = pid, name
        self._since: dict[int, float] = {}
        self._models: dict[int, str] = {}

    def fault(self) -> str | None:
        """Describe a fault that has lasted for seconds; None without one. Call it more often than once a second."""
        now, faulty = time.monotonic(), {}
        for process in _family(self._pid):
            is_server = process.pid == self._pid
            if process.state in _STATES and not (is_server and process.state == "Z"):  # its end is told otherwise
                faulty[process.pid] = self._since.get(process.pid, now)
                if now - faulty[process.pid] >= _FAULT_S:
                    return f"{self._name(process.pid)} (pid {process.pid}) {_STATES[process.state]}"
            elif not is_server:
                self._models[process.pid] = _model_of(process.pid) or self._models.get(process.pid, "")
        self._since = faulty
        return None

    def _name(self, pid: int) -> str:
        if pid == self._pid:
            return self._own_name
        model = self._models.get(pid)
        return f"the Python process of {model}" if model else "a Python process of tritonserver"


class StallWatch:
    """Notices a start or a stop that gets no further. lines: returns how many lines the server has printed. stops:
    whether it is a stop."""

    def __init__(self, pid: int, lines: Callable[[], int], *, stops: bool = False) -> None:
        self._pid, self._lines, self._within_s = pid, lines, _IDLE_S if stops else _STALL_S
        self._mark = (0, 0.0)
        self._since = time.monotonic()

    def fault(self) -> str | None:
        """Describe a server that has neither printed nor computed anything for seconds; None for any other."""
        lines, cpu_s = self._lines(), sum(process.cpu_s for process in _family(self._pid))
        if lines != self._mark[0] or abs(cpu_s - self._mark[1]) >= _BUSY * self._within_s:
            self._mark, self._since = (lines, cpu_s), time.monotonic()
        stalled = time.monotonic() - self._since >= self._within_s
        return f"it did nothing for {self._within_s:.0f} s" if stalled else None


def _family(pid: int) -> list[_Process]:
    """A process and its children, as far as they are still there."""
    return [process for process in map(_process, [pid, *children(pid)]) if process]


def _process(pid: int) -> _Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return _Process(pid, fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def _model_of(pid: int) -> str | None:
    """The model that a child of tritonserver runs: its command line has the path of NAME/VERSION/model.py."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    paths = [Path(os.fsdecode(argument)) for argument in arguments if argument.endswith(b"/model.py")]
    return paths[0].parents[1].name if paths else None
