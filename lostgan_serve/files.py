"""Files that are either whole or not there: written under a temporary name, then renamed.

What is written is locked until then. The kernel frees the lock of a process that is killed, so that the next process
which writes to that folder knows what was left behind, and deletes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lostgan_serve.errors import InputError, OutputError

_TEMPORARY = re.compile(r"(\.tmp|lostgan-scratch)-[0-9a-f]{16}")
_ABANDONED_S = 3600
_CHUNK_BYTES = 1 << 20

_swept: set[Path] = set()  # folders, by this process


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder and see that files can be written to it; what was made goes where the block left it empty.

    Raises OutputError.
    """
    made: list[Path] = []
    try:
        with writing(folder):
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        yield
    finally:
        for path in made:
            with suppress(OSError):  # not empty: the usual case
                path.rmdir()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is written into an OutputError that names it, and so where the locale has no
    bytes for its name."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise OutputError(f"{path}: cannot write (no such name in this locale, {error.encoding})") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot write ({error.strerror or error}); {_fix(error)}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is read, or looked for, into an InputError that names it.

    Also around `is_file`, `is_dir`, `exists` and `iterdir`: a folder that may not be searched makes them raise.
    """
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); mend the path or its rights") from error


def read_file(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file that has no more than `most_bytes`. Raises InputError, before more is in memory."""
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        parts = [file.read(size)] if size <= most_bytes else []
        while size <= most_bytes and (part := file.read(_CHUNK_BYTES)):  # of a pipe, say, which has no size
            parts.append(part)
            size += len(part)
    if size > most_bytes:
        raise InputError(f"{path}: is larger than {most_bytes / 2**20:,.0f} MiB, the most that such a file has")
    return b"".join(parts)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for any other, one of brackets too deep in brackets included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets, too deep") from None


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making its folder where needed. Raises OutputError.

    The first time that a process writes to a folder it deletes what killed processes left there.
    """
    folder = path.parent
    temporary = _temporary(folder)
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        if folder not in _swept:
            _swept.add(folder)
            sweep(folder)
        try:
            with ExitStack() as until_renamed:
                with temporary.open("xb") as file:
                    until_renamed.callback(os.close, lock := os.dup(file.fileno()))
                    _mark_in_use(lock)
                    file.write(data)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its name, and its place, once the block ends well.

    What stood at `path` when the block began is moved aside first and deleted afterwards; what another process put
    there meanwhile is left alone, and is an error. Where anything fails nothing changes and nothing is left behind.
    What killed processes left beside `path` is deleted. Raises OutputError.
    """
    with writing(path):
        replaces = path.exists()
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        work = _temporary(path.parent)
        work.mkdir(mode=0o700)
    fresh, old = work / "new", work / "old"
    try:
        with ExitStack() as until_renamed:
            with writing(path):
                until_renamed.callback(os.close, lock := os.open(work, os.O_RDONLY))
                _mark_in_use(lock)
                fresh.mkdir()
            yield fresh
            with writing(path):
                if replaces:
                    path.rename(old)
                _rename_to_vacant(fresh, path)
    finally:
        if old.exists() and not path.exists():
            with writing(path):
                old.rename(path)  # where this fails, the old folder stays in `work`
        shutil.rmtree(work, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: the usual case
                folder.rmdir()


def _rename_to_vacant(folder: Path, path: Path) -> None:
    try:
        folder.rename(path)  # fails where there is anything but an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise OutputError(f"{path}: another process has made it meanwhile; run the command again") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder among the machine's temporary files, that nobody else may enter, and delete it in the end.

    Those of killed processes are deleted first. Raises OutputError.
    """
    place = Path(tempfile.gettempdir())
    folder = _temporary(place, "lostgan-scratch")
    with ExitStack() as stack:
        with writing(folder):
            sweep(place)
            folder.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(os.close, lock := os.open(folder, os.O_RDONLY))
            _mark_in_use(lock)
        yield folder


def sweep(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes left in `folder`, but for the only copy of an old
    folder. Where the file system has no locks, those of the last hour are left, too."""
    try:
        found = os.listdir(folder)  # noqa: PTH208  # names, not paths
    except OSError:
        return
    for left in (folder / name for name in found if _TEMPORARY.fullmatch(name)):
        with suppress(OSError):
            if (left / "old").exists() or not _is_abandoned(left):
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def _mark_in_use(descriptor: int) -> None:
    """Lock a temporary file or folder, where the file system can, until the descriptor is closed."""
    with suppress(OSError, ImportError):
        _lock(descriptor, exclusive=False)


def _is_abandoned(path: Path) -> bool:
    """Whether no process is writing a temporary file or folder. One that is new and empty may not be locked yet."""
    is_young = time.time() - path.stat().st_mtime < _ABANDONED_S
    is_empty = not any(path.iterdir()) if path.is_dir() else not path.stat().st_size
    with ExitStack() as stack:
        try:
            stack.callback(os.close, lock := os.open(path, os.O_RDONLY))
            _lock(lock, exclusive=True)
        except BlockingIOError:
            return False
        except (OSError, ImportError):
            return not is_young
    return not (is_young and is_empty)


def _lock(descriptor: int, *, exclusive: bool) -> None:
    """Raises BlockingIOError where it is locked already, OSError where the file system has no locks, and ImportError
    where the operating system has none."""
    import fcntl

    fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def _temporary(folder: Path, prefix: str = ".tmp") -> Path:
    """A name in `folder` that no other file has, and that `sweep` knows."""
    return folder / f"{prefix}-{secrets.token_hex(8)}"


def _fix(error: OSError) -> str:
    """How to mend a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or choose another folder"
    if error.errno == errno.ENAMETOOLONG:
        return "give it a shorter name"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that you may write to"
    return "choose another folder"
