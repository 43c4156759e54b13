"""The image files of a data set, found by the names that its annotations state."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from lostgan_train.data.fields import Problem, shown

_FOLDER = "images"

MISSING = "image file missing"
"""The problem of an image whose file is in none of the folders."""

_ABOVE_SUBSETS = (_FOLDER, "data")
"""Folders in whose subfolders tools put the images of each subset, named without them: CVAT, Datumaro, FiftyOne."""

_OF_ANOTHER_MACHINE = re.compile(r"(\.{0,2}/)+|[A-Za-z]:/|[A-Za-z][\w+.-]+://")
"""Beginnings of paths that lead elsewhere on this machine: the root, the folder of a tool, a drive, a server."""


class Images:
    """The image files of a data set, known by listing each folder once."""

    def __init__(
        self, folder: Path, named: Path | None, parts: Sequence[str] = (), roots: Sequence[str] = (_FOLDER,)
    ) -> None:
        """Take the folders to search; none is searched yet.

        folder: the data set's. named: the folder of images that the user named, searched in place of all others. roots:
        the subfolders in which images lie; they may lie beside them, too. parts: the subfolders of each.
        """
        tops = [named] if named else [*(folder / root for root in roots), folder]
        self.folder, self.named = folder, named
        self.folders = tuple(top / part for top in tops for part in (*parts, ""))
        self._listed: dict[Path, frozenset[str]] = {}
        self._found: dict[str, Path | None] = {}
        self._owners: dict[Path, str] = {}

    def register(self, names: Iterable[object]) -> None:
        """Take down the names of a data set before any file is asked for: a file that has a name of its own is no
        other's. Raises OSError for a folder that may not be read."""
        for name in names:
            if isinstance(name, str):
                self._find(name)

    def find(self, name: str, key: str) -> Path:
        """The file that an annotation calls `name`, in the first folder that has it.

        A name that is a path may have been written on Windows, be percent-encoded, or lead to a place of another
        machine, of which the longest end counts that is here. It may also leave out a subfolder of the images, where
        only one file ends like it. Neither finds a file that another name has. Raises Problem of the field `key` for a
        file that is in none of the folders, and OSError for a folder that may not be read.
        """
        found = self._find(name) or self._find_end(name)
        if found is None:
            raise Problem(key, MISSING, f"{shown(name)} is not in {self.places}")
        return found

    def _find(self, name: str) -> Path | None:
        """The file of that name or of another spelling of it."""
        if name not in self._found:
            found = self._at(name) or next(filter(None, map(self._at, _spellings(name))), None)
            self._found[name] = found
            if found:
                self._owners.setdefault(found, name)
        return self._found[name]

    def _find_end(self, name: str) -> Path | None:
        """The file of the longest end of a name, among those that no other name has."""
        for end in dict.fromkeys(end for spelling in _spellings(name) for end in _ends(spelling)):
            for found in (self._at(end), self._below(end)):
                if found and self._owners.setdefault(found, name) == name:
                    return found
        return None

    def _at(self, name: str) -> Path | None:
        """The file at a path, seen from the first folder that has it."""
        if self.named and Path(name).is_absolute():
            return None
        for folder in self.folders:
            path = folder / name
            if ".." in name:  # else one file would have two paths
                path = Path(os.path.normpath(path))
            parent = path.parent
            if parent not in self._listed:
                self._listed[parent] = self._list(parent)
            if path.name in self._listed[parent]:
                return path
        return None

    def _below(self, end: str) -> Path | None:
        """The file in a subfolder whose path ends so, where there is only one; whatever its case and composition."""
        wanted = _folded(f"/{end}")
        same = [path for path in self._files_below.get(wanted.rpartition("/")[2], ()) if _folded(path).endswith(wanted)]
        return Path(same[0]) if len(same) == 1 else None

    @cached_property
    def _files_below(self) -> Mapping[str, list[str]]:
        """The paths of all files below the folders of images, by their names, folded."""
        paths: dict[str, list[str]] = {}
        for top in [self.named] if self.named else [self.folder / each for each in _ABOVE_SUBSETS]:
            for folder, _, files in os.walk(top):
                for file in files:
                    paths.setdefault(_folded(file), []).append(f"{folder}/{file}")
        return paths

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
    """The ends of a path of another machine, the longest first; one that is relative to the set is taken as it is."""
    beginning = _OF_ANOTHER_MACHINE.match(path)
    if beginning is None:
        yield path
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


def _folded(path: str) -> str:
    """A path as it compares with others: macOS decomposes accents, Windows takes either case."""
    return unicodedata.normalize("NFC", path).casefold()
