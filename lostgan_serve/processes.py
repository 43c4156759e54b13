"""Processes of this machine and their children, as /proc has them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The children of a process, as far as it is still there."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def family(pid: int) -> list[int]:
    """A process and its descendants, as far as they are still there."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def sizes_kib(pid: int) -> dict[str, int]:
    """The Rss and Pss of a process in KiB; empty where it is gone or another user's. Pss counts pages that processes
    share for each by its share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return {}
    sizes = (line.split() for line in lines if line.startswith(("Rss:", "Pss:")))
    return {words[0].rstrip(":"): int(words[1]) for words in sizes}
