"""The contents of files by their SHA-256, each file read once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lostgan_serve.files import reading
from lostgan_serve.model_folder import sha256


def content_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; it is kept as long as the file's size and time stay.

    Raises InputError for a file that is missing or may not be read.
    """
    with reading(file):
        stat = file.stat()
        return _sha256(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256(file: Path, _size: int, _changed: int) -> str:
    return sha256(file)
