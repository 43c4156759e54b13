"""Visual Genome's files, in the versions 1.0, 1.2 and 1.4: lists by image, synonyms, splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_train.data.fields import Problem, as_id, member, whole_id
from lostgan_train.data.json_file import Json, load_json
from lostgan_train.data.splits import SPLITS
from lostgan_train.data.summary import Summary

SplitOf = Callable[[int], str | None]


def name_of_id(item: Any, key: str) -> str:
    """The member that holds an id: `key`, which is "image_id" or "object_id", or version 1.0's "id"."""
    return "id" if isinstance(item, dict) and key not in item and "id" in item else key


def image_id(item: Any) -> int:
    """The id of the image that an item of a file is about. Raises Problem."""
    return whole_id(item, name_of_id(item, "image_id"))


def items_of(path: Path, slim: Callable[[Json], Any]) -> list[Any]:
    """The items of a file, one for each image. Raises DataError."""
    document = load_json(path, slim)
    if not isinstance(document, list):
        raise DataError(f"{path}: must be a list with an item for each image, as Visual Genome's is")
    return document


def items_by_image(path: Path, key: str, slim: Callable[[Json], Any], summary: Summary) -> dict[int, list[Any]]:
    """The list that each image has at `key`, by the image's id. Raises DataError."""
    found: dict[int, list[Any]] = {}
    for index, item in enumerate(items_of(path, slim)):
        try:
            image = image_id(item)
            if image in found:
                raise Problem("image_id", "image id standing twice", f"{image}")
            found[image] = member(item, key, list, "[{...}, ...]")
        except Problem as problem:
            summary.add_problem(path, f"[{index}]", problem)
    return found


def read_aliases(path: Path, things: str, summary: Summary) -> dict[str, str]:
    """Name -> the first name on its line. things: these names, in a word. Raises DataError."""
    if not path.is_file():
        summary.notes.append(f"no {path.name}: synonyms stay {things} of their own")
        return {}
    try:
        rows = [[name.strip() for name in line.split(",")] for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    return {name: row[0] for row in rows for name in row if name and row[0]}


def read_splits(folder: Path, named: Path | None, summary: Summary) -> SplitOf:
    """The split of an image id: as the file says, else 80, 10 and 10 of a hundred by a hash.

    named: the file that the user named, in place of `folder`/vg_splits.json. Raises DataError.
    """
    path = named or folder / "vg_splits.json"
    if named is None and not path.is_file():
        summary.notes.append(f"no {path.name}: an image's split follows from its id, 80:10:10, not the paper's")
        return _split_by_hash
    document, split_of = load_json(path), dict[int, str]()
    for name in SPLITS:
        stated = document.get(name, []) if isinstance(document, dict) else None
        ids = [key for key in map(as_id, stated) if isinstance(key, int)] if isinstance(stated, list) else []
        if not isinstance(stated, list) or len(ids) < len(stated):
            raise DataError(f'{path}: {name}: must be a list of image ids, {{"train": [1, 2], "val": [...]}}')
        both = next((key for key in ids if key in split_of), None)
        if both is not None:
            raise DataError(f"{path}: {name}: image {both} is in {split_of[both]!r}, too; leave it in one of them")
        split_of.update(dict.fromkeys(ids, name))
    return split_of.get


def _split_by_hash(key: int) -> str:
    share = hashlib.blake2b(f"visual-genome/{key}".encode(), digest_size=1).digest()[0] / 256
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"
