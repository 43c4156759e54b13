"""A folder for each running server, and the removal of those that killed servers left behind.

It lies in shared memory, where the Python backend needs to write anyway, and its name begins the names of the server's
segments there. So one lock says whether either is in use, and no character of TMPDIR gets into the path: the Python
backend hands it to a shell unquoted.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import ServerError

SHARED_MEMORY = Path("/dev/shm")

MORE_SHARED_MEMORY = "give this machine or container more shared memory (for a container: --shm-size)"
"""What to do where it is full."""

_PREFIX = "lostgan-serve-"


@dataclass(frozen=True)
class ServerFolder:
    """A folder that only this user may enter.

    lock: a descriptor that marks the folder as in use as long as any process has it open.
    """

    path: Path
    lock: int

    @property
    def segment_prefix(self) -> str:
        """The beginning of the names of the server's shared memory segments."""
        return f"{self.path.name}-"

    def remove_segments(self) -> None:
        """Remove the server's shared memory. Call it when no process of the server is left."""
        _remove_segments(self.path)


@contextmanager
def server_folder() -> Iterator[ServerFolder]:
    """Yield a new folder; it and the server's segments are removed when the block ends. Raises ServerError.

    What killed servers of this user left is removed first, and once more in the end: the processes of one that was
    killed a moment ago may have been about to die.
    """
    _sweep()
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    unlocked = SHARED_MEMORY / f".{name}"  # no sweep looks at this name
    with writing_shared_memory():
        unlocked.mkdir(mode=0o700)
        lock = os.open(unlocked, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = unlocked.rename(SHARED_MEMORY / name)
    try:
        yield ServerFolder(path, lock)
    finally:
        _remove(path)
        os.close(lock)
        _sweep()


@contextmanager
def writing_shared_memory() -> Iterator[None]:
    """Turn an OSError raised while a server's folder is written into a ServerError."""
    try:
        yield
    except OSError as error:
        raise ServerError(
            f"{SHARED_MEMORY}: a server's files cannot be written there ({error.strerror or error}); "
            f"{MORE_SHARED_MEMORY}"
        ) from error


def _sweep() -> None:
    """Remove the folders of servers that are gone. Folders of other users are left to them."""
    for path in SHARED_MEMORY.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # no folder but a segment, not ours, in use, or just removed by another sweep
            if path.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    _remove_segments(path)
    shutil.rmtree(path, ignore_errors=True)  # last: a sweep that was interrupted is done again


def _remove_segments(path: Path) -> None:
    for segment in SHARED_MEMORY.glob(f"{path.name}-*"):
        segment.unlink(missing_ok=True)
