"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lostgan_serve.errors import OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised while `path` is written into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write ({reason}); free some space or choose another folder") from error


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making its folder where needed. Raises OutputError."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its name, and its place, once the block ends well.

    What stood at `path` is moved aside first and deleted afterwards. Where the block fails nothing changes and nothing
    is left behind. Raises OutputError.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        fresh, old = work / "new", work / "old"
        with writing(path):
            fresh.mkdir()
        yield fresh
        with writing(path):
            if path.exists():
                path.rename(old)
            fresh.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty: the usual case
            path.parent.rmdir()
