"""What the processes of a test leave behind. They are known by a mark in their environment, which children inherit."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path

_MARK = "LOSTGAN_FAULTS_MARK"
_SHARED_MEMORY = "/dev/shm/"
_CACHE = "torchinductor_"  # an empty folder that PyTorch makes once for each user and keeps


class Traces:
    """The processes of a test, their temporary folder and their shared memory.

    environment: start every process of the test with it.
    """

    def __init__(self, folder: Path) -> None:
        self._temporary = folder / "temporary"
        self._temporary.mkdir()
        self._mark = f"{_MARK}={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.environment = os.environ | {name: value, "TMPDIR": str(self._temporary), "PYTHONUNBUFFERED": "1"}
        self._shared: set[Path] = set()

    def processes(self) -> dict[int, list[str]]:
        """The command lines of the test's processes, by pid. The dead that nobody waited for do not count."""
        found = {}
        for path in Path("/proc").iterdir():
            with suppress(OSError):
                if path.name.isdecimal() and self._mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_text("utf-8", "replace").split("\0")
        return found

    def note(self) -> None:
        """Remember the shared memory that the processes use now; what of it is there in the end is left over."""
        for pid in self.processes():
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace").splitlines()
                files = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
                names = [name for name in (*files, *(line[73:] for line in lines)) if name.startswith(_SHARED_MEMORY)]
                self._shared |= {Path("/".join(name.split("/")[:4])) for name in names}

    def left(self, *folders: Path, within_s: float = 40) -> list[str]:
        """A line for each process, each segment of shared memory and each temporary file that is there still.

        folders: those that commands wrote to, whose temporary files count. Waits up to `within_s` seconds.
        """
        end = time.monotonic() + within_s
        while (found := self._left(folders)) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def _left(self, folders: tuple[Path, ...]) -> list[str]:
        processes = [f"process {pid}: {' '.join(words)[:120]}" for pid, words in self.processes().items()]
        files = [path for path in self._temporary.rglob("*") if not path.name.startswith(_CACHE)]
        files += [path for path in self._shared if path.exists()]
        files += [path for folder in folders for path in folder.rglob(".tmp-*")]
        return processes + [f"file {path}" for path in files]

    def kill(self) -> None:
        """Kill what is left, so that no other test meets it."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
