"""Where a data set lies: a folder of this machine or of a file server, or an object store that fsspec knows.

All that belongs to a shard appears in the end, and its part last: a shard is there where its part is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lostgan_serve.errors import OutputError, require
from lostgan_serve.files import scratch_folder, writing

_STAGED = ".staged"


class Store(Protocol):
    """A data set's files, named by their path in it, with / between folders."""

    def text(self, name: str) -> str | None:
        """A file's text; None where it is not there. Raises OutputError where it cannot be read."""
        ...

    def names(self, folder: str) -> set[str]:
        """The names of the files and folders in a folder; none where it is not there."""
        ...

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the data set, where that is possible, so that no other process changes it. What a killed process left
        half done is deleted. Raises OutputError where another holds it."""
        ...

    @contextmanager
    def staged(self, publish: Sequence[str], *, once: bool = False) -> Iterator[Path]:
        """Yield an empty folder of this machine for new files of the data set. Once the block ends well, the files and
        folders of `publish` take their places in this order, in place of what stood there. once: another process may
        publish the same bytes; where the last of them is there already, nothing is touched. Raises OutputError."""
        ...


def open_store(place: str) -> Store:
    """The store at a folder's path, or at a URL such as s3://bucket/folder. Raises OutputError for a URL of an unknown
    kind, and MissingExtraError without fsspec."""
    return RemoteStore(place) if "://" in place else Folder(Path(place))


class Folder:
    """See `Store`; a folder that this machine has mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def text(self, name: str) -> str | None:
        try:
            return (self.root / name).read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.root / name}: cannot be read ({error}); mend it or choose another --out"
            ) from error

    def names(self, folder: str) -> set[str]:
        with writing(self.root / folder):
            try:
                return set(os.listdir(self.root / folder))  # noqa: PTH208  # names, not paths
            except FileNotFoundError:
                return set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        made = [path for path in (self.root, *self.root.parents) if not path.exists()]
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(f"{self.root}: another process writes to it; wait for its end") from error
            shutil.rmtree(self.root / _STAGED, ignore_errors=True)
            yield
        finally:
            shutil.rmtree(self.root / _STAGED, ignore_errors=True)
            os.close(handle)
            for path in made:
                if path.exists() and not any(path.iterdir()):
                    path.rmdir()

    @contextmanager
    def staged(self, publish: Sequence[str], *, once: bool = False) -> Iterator[Path]:
        work = self.root / _STAGED / secrets.token_hex(8)  # a lost worker of Ray may be at the same shard
        with writing(work):
            work.mkdir(parents=True)
        try:
            yield work
            with writing(self.root):
                _sync(work)
                with self._publishing():
                    if not (once and (self.root / publish[-1]).exists()):
                        for one in publish:
                            _move(work / one, self.root / one)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Let one process at a time move files to their places. The kernel frees the lock where that process dies."""
        with (self.root / _STAGED / "publishing").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class RemoteStore:
    """See `Store`; a place that fsspec reaches. Nothing there is locked: it is for its users to write one at a time."""

    def __init__(self, url: str) -> None:
        fsspec = require("fsspec", "ray")
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise OutputError(
                f"{url}: cannot write there ({error}); give a folder or a URL that fsspec knows"
            ) from error
        self._url = url

    def __str__(self) -> str:
        return self._url

    def text(self, name: str) -> str | None:
        with writing(Path(self._url)):
            try:
                return str(self._files.cat_file(f"{self._root}/{name}").decode("utf-8"))
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> set[str]:
        with writing(Path(self._url)):
            try:
                found = self._files.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return set()
        return {str(path).rstrip("/").rpartition("/")[2] for path in found}

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    @contextmanager
    def staged(self, publish: Sequence[str], *, once: bool = False) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder
            with writing(Path(self._url)):
                if not (once and self._files.exists(f"{self._root}/{publish[-1]}")):
                    for one in publish:
                        self._put(folder / one, f"{self._root}/{one}")

    def _put(self, source: Path, target: str) -> None:
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        for file in files:
            inside = "" if file == source else f"/{file.relative_to(source).as_posix()}"
            self._files.makedirs(f"{target}{inside}".rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), f"{target}{inside}")


compact_json: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""A value as one line of JSON, always in the same bytes."""


def write_text(path: Path, text: str) -> None:
    """Write a text file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _sync(folder: Path) -> None:
    """Have all that was written to a folder's file system reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if (syncfs := getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)) is None:
            os.sync()  # not Linux
        elif syncfs(handle):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(handle)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():  # of a process that was killed before its part was there
        shutil.rmtree(target)
    source.replace(target)
