"""Candidates of a benchmark, each in a process of its own, since a process has one peak of memory. They take turns, so
that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lostgan_serve.errors import LostganError
from lostgan_serve.progress import Progress

Build = Callable[..., Callable[[Any], object]]
"""Makes, in its process, the function of a job that is measured. It must be importable by name."""


@dataclass
class Turns:
    """The candidates at work. peak_mib: the most memory that each one's process held so far (on a GPU: that torch
    allocated there)."""

    ends: dict[str, Connection]
    peak_mib: dict[str, float] = field(default_factory=dict)

    def measure(self, job: Any, name: str, rounds: int, progress: Progress) -> dict[str, tuple[float, ...]]:
        """The seconds that each candidate takes for a job, round by round, after one to warm up. name: of the job, for
        `progress`. Raises LostganError where a process ended."""
        taken = []
        with progress.count(f"{name}, rounds", 1 + rounds) as advance:
            for number in range(1 + rounds):
                taken.append(self.take(job))
                advance(number + 1, "")
        del taken[0]
        return {name: tuple(row[name] for row in taken) for name in self.ends}

    def take(self, job: Any) -> dict[str, float]:
        """Let each candidate do a job once; the seconds that it took. Raises LostganError where a process ended."""
        taken = {}
        for name, end in self.ends.items():
            try:
                end.send(job)
                taken[name], self.peak_mib[name] = end.recv()
            except (EOFError, OSError) as error:
                raise LostganError(
                    f"{name}: ended before its time, perhaps for want of memory; ask for less"
                ) from error
        return taken


@contextmanager
def turns(candidates: Mapping[str, tuple[Build, Sequence[Any]]]) -> Iterator[Turns]:
    """Within the block: the candidates, each a function and its arguments that make what is measured."""
    context = get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for name, (build, arguments) in candidates.items():
        ends[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, build, arguments), daemon=True))
        processes[-1].start()
        theirs.close()
    try:
        yield Turns(ends)
    finally:
        for end in ends.values():
            end.close()
        for process in processes:
            process.join()


def _serve(end: Connection, build: Build, arguments: Sequence[Any]) -> None:
    run = build(*arguments)
    while True:
        try:
            job = end.recv()
        except EOFError:
            return
        start = time.perf_counter()
        run(job)
        end.send((time.perf_counter() - start, _peak_mib()))


def _peak_mib() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    # not getrusage, whose maximum a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
