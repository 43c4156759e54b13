"""The image files of a data set, found by the names that its annotations state."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from lostgan_train.data.fields import Problem

_FOLDER = "images"

_OF_ANOTHER_MACHINE = re.compile(r"(\.{0,2}/)+|[A-Za-z]:/|[A-Za-z][\w+.-]+://")
"""Beginnings of paths that lead elsewhere on this machine: the root, the folder of a tool, a drive, a server."""


class Images:
    """The image files of a data set, known by listing each folder once."""

    def __init__(
        self, folder: Path, named: Path | None, parts: Sequence[str] = (), roots: Sequence[str] = (_FOLDER,)
    ) -> None:
        """folder: the data set's. named: the folder of images that the user named, searched in place of all others.
        roots: the subfolders in which images lie; they may lie beside them, too. parts: the subfolders of each."""
        tops = [named] if named else [*(folder / root for root in roots), folder]
        self.folder, self.folders = folder, tuple(top / part for top in tops for part in (*parts, ""))
        self._names: dict[Path, frozenset[str]] = {}
        self._by_end: dict[Path, str] = {}

    def find(self, name: str, key: str) -> Path:
        """The file that an annotation calls `name`, in the first folder that has it.

        A name that is a path may have been written on Windows, be percent-encoded, or lead to a place of another
        machine, of which the longest end counts that is here. Raises Problem of the field `key` for a file that is in
        none of the folders, and OSError for a folder that may not be read.
        """
        if found := self._find(name):
            return found
        for spelling in _spellings(name):
            if found := self._find(spelling):
                return found
            for end in _ends(spelling):
                found = self._find(end)
                if found and self._by_end.setdefault(found, name) == name:
                    return found
        raise Problem(key, "image file missing", f"{name!r} is not in {self.places}")

    def _find(self, name: str) -> Path | None:
        for folder in self.folders:
            path = folder / name
            parent = path.parent
            if parent not in self._names:
                self._names[parent] = self._list(parent)
            if path.name in self._names[parent]:
                return path
        return None

    def _list(self, folder: Path) -> frozenset[str]:
        try:
            with os.scandir(folder) as entries:
                return frozenset(entry.name for entry in entries if _is_file(entry))
        except PermissionError:
            if any(folder.is_relative_to(own) for own in self.folders):
                raise
        except (OSError, ValueError):  # no such folder, or a name that no folder can have
            pass
        return frozenset()

    @cached_property
    def places(self) -> str:
        """The folders that were searched, in words."""
        there = [folder for folder in self.folders if folder.is_dir() and folder != self.folder]
        shown = [
            place.relative_to(self.folder) if place.is_relative_to(self.folder) else place
            for place in there or self.folders[:1]
        ]
        return " or ".join(f"{place}/" for place in shown)


def _spellings(name: str) -> Iterator[str]:
    """The paths that `name` may stand for besides itself, the likeliest first.

    Label Studio puts images/ in front, or `/data/local-files/?d=` where it serves a folder of its machine.
    """
    slashes = name.replace("\\", "/")
    _, served, path = slashes.rpartition("?d=")
    spellings = [slashes, f"/{path}"] if served else [slashes]
    spellings += [unquote(spelling) for spelling in spellings]
    spellings += [spelling.removeprefix(f"{_FOLDER}/") for spelling in spellings]
    return (spelling for spelling in dict.fromkeys(spellings) if spelling)


def _ends(path: str) -> Iterator[str]:
    """The ends of a path of another machine, the longest first; none of one that is relative to the set."""
    beginning = _OF_ANOTHER_MACHINE.match(path)
    if beginning is None:
        return
    steps = [step for step in path[beginning.end() :].partition("?")[0].split("/") if step]
    for first in range(len(steps)):
        yield "/".join(steps[first:])


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file: a link in a circle, or to a place that may not be seen, is none."""
    try:
        return entry.is_file()
    except OSError:
        return False
