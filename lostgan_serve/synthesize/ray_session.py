"""Ray for as long as one command needs it: that of RAY_ADDRESS, or else one of this machine that leaves nothing behind.

Ray tells the console a lot, in five ways; all are closed here. Its errors reach the caller as exceptions.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from lostgan_serve.errors import DeviceError, require
from lostgan_serve.files import writing

_PREFIX = "lostgan-ray-"
_STANDARD_ERROR = 2
_POLL_S, _PATIENCE_S = 0.05, 10.0


@contextmanager
def ray_session() -> Iterator[str | None]:
    """Have Ray connected for a block: as the caller has connected it, or to the cluster of RAY_ADDRESS, or else to one
    that is started on this machine and ends with the block.

    Yields a folder for its workers' temporary files, which goes with it; None where Ray was there before. Raises
    MissingExtraError, OutputError, and DeviceError where Ray does not start or answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its maker
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the others write to Ray's own log files
            handler.setLevel(logging.CRITICAL + 1)
    data.DataContext.get_current().enable_progress_bars = False
    # Ray prints that a worker died, which nobody can turn off
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        if ray.is_initialized():
            yield None
        elif (address := os.environ.get("RAY_ADDRESS", "")) not in ("", "local"):
            _knock(address)
            with _connected(ray, address=address):
                yield None
        else:
            # Ray's ports are open to the network. Without a token of ours it would leave one in the user's home.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            with _folder() as folder, _connected(ray, address="local", include_dashboard=False, _temp_dir=str(folder)):
                yield str(folder)


def _knock(address: str) -> None:
    """Raise DeviceError where nothing listens at a cluster's address: Ray itself would try it for 14 minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"RAY_ADDRESS={address}: no Ray there ({error}); start the cluster, or unset RAY_ADDRESS to use this "
            "machine alone"
        ) from error


@contextmanager
def _connected(ray: ModuleType, **options: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        try:
            with _silent():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise DeviceError(f"Ray: it does not start or answer ({' '.join(str(error).split())})") from error
        _handle_sigterm(lambda *_: sys.exit(128 + signal.SIGTERM))  # Ray's handler shows where each thread was
        yield
    finally:
        ray.shutdown()
        _handle_sigterm(before)


def _handle_sigterm(handler: Any) -> None:
    with suppress(ValueError):  # this is not the main thread, and no handler of its was changed
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silent() -> Iterator[None]:
    """Let nothing through to standard error, not even from parts that are not Python."""
    kept = os.dup(_STANDARD_ERROR)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), _STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, _STANDARD_ERROR)
        os.close(kept)


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a new folder for Ray's files that is removed when the block ends. What killed commands left is removed
    first: a lock on such a folder says that it is in use."""
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, another user's, or just removed by another command
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    _remove(left)
            finally:
                os.close(lock)
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    with writing(place):
        unlocked = place / f".{name}"  # no other command looks at this name
        unlocked.mkdir(mode=0o700)
        lock = os.open(unlocked, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = unlocked.rename(place / name)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder of Ray's, and the processes that still write to it: some would live on for minutes."""
    end = time.monotonic() + _PATIENCE_S
    while (pids := list(_writers(folder))) and time.monotonic() < end:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def _writers(folder: Path) -> Iterator[int]:
    """The processes, but for this one, that have a file in a folder open for writing, as far as /proc tells."""
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):  # it is gone, or another user's
            if process.name != str(os.getpid()) and any(
                file.lstat().st_mode & stat.S_IWUSR and file.readlink().is_relative_to(folder)
                for file in (process / "fd").iterdir()
            ):
                yield int(process.name)
