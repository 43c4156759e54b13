"""Long runs: very many inputs of a target, in a process of their own that may crash or hang."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from conftest import run_cli
from fuzz.guard import Find, tried
from fuzz.targets import Fuzzed, Materials, Opener

STUCK_S = 60
"""For how long a process may work on one input, in a library that no signal interrupts, before it is killed."""

_MOST_MEMORY = 6 << 30  # above what a process has to begin with: an input that asks for more is refused or a find

_OUTPUT, _KINDS = "output", "kinds.txt"

_NEXT, _REFUSED, _ACCEPTED = range(3)


@dataclass
class Row:
    """The outcome of a run. kinds: how often each kind of find was made."""

    name: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    took_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def finds(self) -> int:
        return self.kinds.total()


def input_of(fuzzed: Fuzzed, seed: int, index: int) -> bytes:
    """The input of that index in a run: a function of its seed, so that each can be made again."""
    return fuzzed.mutate(Random(f"{seed}/{index}"), fuzzed.seeds)


def campaign(name: str, opener: Opener, materials: Materials, count: int, seed: int, finds: Path) -> Row:
    """Try `count` inputs of a target. The first of each kind of find is kept in the folder `finds`, with what is known
    about it beside it."""
    context = multiprocessing.get_context("spawn")
    counts: SynchronizedArray[int] = context.Array("q", 3)
    kinds, start = finds / name / _KINDS, time.monotonic()
    kinds.unlink(missing_ok=True)  # of an earlier run
    while counts[_NEXT] < count:
        worker = context.Process(target=_work, args=(opener, materials, count, seed, finds / name, counts))
        worker.start()
        if reason := _watched(worker, counts):
            index = counts[_NEXT]
            said = (materials.scratch / _OUTPUT).read_text("utf-8", "replace")[-2000:]
            if worker.exitcode == 1:
                raise RuntimeError(f"{name}: a fault of the fuzzing itself: {said}")
            keep(finds / name, Find(reason, said), input_of(opener(materials), seed, index), index)
            counts[_NEXT] = index + 1
    row = Row(name, counts[_NEXT], counts[_REFUSED], counts[_ACCEPTED], time.monotonic() - start)
    row.kinds = Counter(kinds.read_text("utf-8").splitlines() if kinds.exists() else ())
    return row


def _work(
    opener: Opener, materials: Materials, count: int, seed: int, finds: Path, counts: SynchronizedArray[int]
) -> None:
    """Try the inputs that are left. The process that asked sees how far it is."""
    with (materials.scratch / _OUTPUT).open("wb") as output:  # libraries tell of each input that they refuse
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    fuzzed = opener(materials)
    before = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + _MOST_MEMORY, resource.RLIM_INFINITY))
    while (index := counts[_NEXT]) < count:
        data = input_of(fuzzed, seed, index)
        try:
            refused = tried(fuzzed.target, data)
        except Find as find:
            keep(finds, find, data, index)
        else:
            counts[_ACCEPTED if refused is None else _REFUSED] += 1
        counts[_NEXT] = index + 1
    os._exit(0)  # threads of servers and libraries are not waited for


def _watched(worker: multiprocessing.process.BaseProcess, counts: SynchronizedArray[int]) -> str | None:
    """Wait for a process. Returns the reason for which it ended too early, None where it did not."""
    seen, since = -1, time.monotonic()
    while worker.is_alive():
        worker.join(1)
        if counts[_NEXT] != seen:
            seen, since = counts[_NEXT], time.monotonic()
        elif time.monotonic() - since > STUCK_S:
            worker.kill()
            worker.join()
            return f"no answer within {STUCK_S} s"
    return None if worker.exitcode == 0 else f"the process ended with {worker.exitcode}"


def keep(folder: Path, find: Find, data: bytes, index: int) -> None:
    """Note a find in a folder; the first of its kind with its input."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _KINDS).open("a", encoding="utf-8", errors="backslashreplace") as kinds:
        kinds.write(f"{find.kind}\n")
    path = folder / hashlib.sha256(find.kind.encode()).hexdigest()[:12]
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"input {index}: {find}\n", "utf-8", "backslashreplace")


@contextmanager
def new_materials() -> Iterator[Materials]:
    """The smallest generator there is, exported, in a temporary folder."""
    from lostgan_serve.vocabulary import Vocabulary
    from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint

    with TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        checkpoint = folder / "small.safetensors"
        save_checkpoint(checkpoint, random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2))
        run_cli("export", "--res", "64", "--checkpoint", checkpoint, "--repository", folder / "repository", check=True)
        (folder / "scratch").mkdir()
        yield Materials(folder / "repository/lostgan_64", checkpoint, folder / "scratch")


def table(rows: Iterable[Row]) -> str:
    """The outcomes in Markdown."""
    lines = ["| target | inputs tried | refused | accepted | finds | seconds |", "|---|---|---|---|---|---|"]
    rows = list(rows)
    total = Row("all", *(sum(getattr(row, key) for row in rows) for key in ("tried", "refused", "accepted", "took_s")))
    total.kinds = Counter({f"{row.name}: {kind}": count for row in rows for kind, count in row.kinds.items()})
    for row in [*rows, total]:
        lines.append(
            f"| {row.name} | {row.tried:,} | {row.refused:,} | {row.accepted:,} | {row.finds:,} | {row.took_s:.0f} |"
        )
    return "\n".join([*lines, "", *(f"find: {kind} ({count} times)" for kind, count in total.kinds.items())])
