"""The memory of a server's processes over time, from /proc."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import LostganError
from lostgan_serve.processes import family, sizes_kib


@dataclass(frozen=True)
class Memory:
    """Memory of a server's processes together, sampled over a soak.

    seconds: moments of the samples, from the beginning. pss_mib: each page counted once, however many processes share
    it; rss_mib: counted for each process. by_process: the last sample's pss_mib, by name and pid. growth_percent: of
    pss_mib after the warm-up, see `growth_percent`. processes: how many there were in all; more than at once where some
    were started again.
    """

    seconds: tuple[float, ...]
    pss_mib: tuple[float, ...]
    rss_mib: tuple[float, ...]
    by_process: dict[str, float]
    growth_percent: float
    processes: int


class MemorySampler:
    """Samples the memory of a process and its descendants while the block runs. Raises LostganError for a pid of no
    process, or of one that may not be looked at."""

    def __init__(self, pid: int, every_s: float) -> None:
        if not sizes_kib(pid):
            raise LostganError(f"--pid {pid}: no such process of yours is on this machine; name that of `serve`")
        self._pid, self._every_s = pid, every_s
        self._seconds: list[float] = []
        self._pss: list[float] = []
        self._rss: list[float] = []
        self._last: dict[str, float] = {}
        self._seen: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def memory(self) -> Memory:
        """What was sampled."""
        return Memory(
            tuple(self._seconds),
            tuple(self._pss),
            tuple(self._rss),
            self._last,
            growth_percent(self._pss),
            len(self._seen),
        )

    def _sample_on(self) -> None:
        start = time.monotonic()
        while True:
            found = {pid: sizes for pid in family(self._pid) if (sizes := sizes_kib(pid))}
            if found:
                self._seen |= found.keys()
                self._seconds.append(round(time.monotonic() - start, 3))
                self._pss.append(sum(sizes["Pss"] for sizes in found.values()) / 1024)
                self._rss.append(sum(sizes["Rss"] for sizes in found.values()) / 1024)
                self._last = {f"{_name(pid)} {pid}": round(sizes["Pss"] / 1024, 1) for pid, sizes in found.items()}
            if self._stop.wait(self._every_s):
                return


def growth_percent(samples: Sequence[float]) -> float:
    """How far the last tenth of samples lies above the second tenth, in percent of that, by their medians. The first
    tenth is the warm-up."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return 100 * (statistics.median(late) / statistics.median(early) - 1)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    except OSError:
        return "ended"
