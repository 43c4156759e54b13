"""Candidates of a benchmark, each in a process of its own, since a process has one peak of memory. They take turns, so
that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lostgan_serve.errors import LostganError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import first_line

_JOB_S = 3600.0  # torch.compile compiles for minutes before its first
_END_S = 10.0

Build = Callable[..., Callable[[Any], object]]
"""Makes, in its process, the function of a job that is measured. It must be importable by name."""


@dataclass
class Turns:
    """The candidates at work. peak_mib: the most memory that each one's process held so far (on a GPU: that torch
    allocated there). ends: of the pipes to their processes."""

    ends: dict[str, Connection]
    peak_mib: dict[str, float] = field(default_factory=dict)

    def measure(self, job: Any, name: str, rounds: int, progress: Progress) -> dict[str, tuple[float, ...]]:
        """The seconds that each candidate takes for a job, round by round, after one to warm up. name: of the job, for
        `progress`. Raises what `take` does."""
        taken = []
        with progress.count(f"{name}, rounds", 1 + rounds) as advance:
            for number in range(1 + rounds):
                taken.append(self.take(job))
                advance(number + 1, "")
        del taken[0]
        return {name: tuple(row[name] for row in taken) for name in self.ends}

    def take(self, job: Any) -> dict[str, float]:
        """Let each candidate do a job once; the seconds that it took. Raises the LostganError of a candidate that
        fails, and another where its process ended or takes longer than an hour."""
        taken = {}
        for name, end in self.ends.items():
            try:
                end.send(job)
                if not end.poll(_JOB_S):
                    raise LostganError(f"{name}: took longer than {_JOB_S / 60:.0f} minutes; ask for less")
                answer = end.recv()
            except (EOFError, OSError) as error:
                raise LostganError(
                    f"{name}: ended before its time, perhaps for want of memory; ask for less"
                ) from error
            if isinstance(answer, LostganError):
                raise type(answer)(f"{name}: {answer}") from answer
            taken[name], self.peak_mib[name] = answer
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
            process.join(_END_S)
            process.kill()


def _serve(end: Connection, build: Build, arguments: Sequence[Any]) -> None:
    """Answer each job with the seconds that it took and the memory, until the other end is closed. A failure ends this,
    and is the last answer."""
    try:
        with suppress(EOFError):
            run = build(*arguments)
            while True:
                job = end.recv()
                start = time.perf_counter()
                run(job)
                end.send((time.perf_counter() - start, _peak_mib()))
    except LostganError as error:
        end.send(error)
    except Exception as error:
        end.send(LostganError(f"{type(error).__name__}: {first_line(error)}"))


def _peak_mib() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    # not getrusage, whose maximum a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
