"""Visual Genome from its raw JSON, by the rules that the paper's 178 classes come from (section 3.1, which follows
Johnson et al., "Image generation from scene graphs", 2018).

One of that work's rules is left out: it also drops images without relationships, of which layouts know nothing. So
somewhat more images remain than the paper's 62,565.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME, Vocabulary
from lostgan_train.data.source import (
    Candidate,
    Images,
    Problem,
    Source,
    Summary,
    find_image,
    load_json,
    member,
    note_id,
    number,
    own_name,
    select,
    unit_box,
)

SPLITS = ("train", "val", "test")

SMALLEST_IMAGE_PX = 200
SMALLEST_OBJECT_PX = 32
FEWEST, MOST = 3, 30
"""Objects in an image, the background not counted."""

_NOT_NEEDED = ("synsets", "merged_object_ids", "coco_id", "flickr_id")

SplitOf = Callable[[int], str | None]


def is_visual_genome(folder: Path) -> bool:
    """Whether a folder has Visual Genome's files. Raises DataError where one of the two is missing."""
    there = {name: (folder / name).is_file() for name in ("image_data.json", "objects.json")}
    if any(there.values()) and not all(there.values()):
        missing = next(name for name, found in there.items() if not found)
        raise DataError(f"{folder / missing}: missing; Visual Genome needs {' and '.join(there)}")
    return all(there.values())


def open_visual_genome(folder: Path, split: str, strict: bool, min_instances: int) -> Source:
    """`image_data.json` and `objects.json`, with `object_alias.txt` and `vg_splits.json` where they are there.

    Images of at least 200 px in both sides; objects of at least 32 px in both sides, of classes that the training
    split names `min_instances` times; 3 to 30 objects. Where those classes are the built-in vocabulary's, so are their
    ids. Boxes are clipped at the edges of the image, over which many reach. Raises DataError.
    """
    summary = Summary(str(folder), f"Visual Genome, split {split}", strict)
    split_of, aliases = _splits(folder / "vg_splits.json", summary), _aliases(folder / "object_alias.txt", summary)
    images = Images(folder / name for name in ("VG_100K", "VG_100K_2", "images"))
    candidates, training = _read_images(folder / "image_data.json", split_of, split, images, summary)
    path = folder / "objects.json"
    objects = _objects_by_image(path, summary)
    names = (name for key in training for item in objects.get(key, ()) for name in set(_names(item, aliases)))
    vocabulary = _vocabulary(folder, Counter(names), min_instances)
    ids = {name: label for label, name in enumerate(vocabulary.labels) if label}
    for key, items in objects.items():
        if key in candidates:
            _gather(path, key, items, candidates[key], ids, aliases, summary)
        elif split_of(key) == split:
            summary.dropped_objects["in images left out"] += len(items)
    return select(candidates.values(), vocabulary, FEWEST, MOST, summary)


def _splits(path: Path, summary: Summary) -> SplitOf:
    """The split of an image id: as the file says, else 80, 10 and 10 of a hundred by a hash. Raises DataError."""
    if not path.is_file():
        summary.notes.append(f"no {path.name}: an image's split follows from its id, 80:10:10, not the paper's")
        return _split_by_hash
    document = load_json(path, ())
    try:
        return {key: name for name in SPLITS for key in document.get(name, ())}.get
    except (AttributeError, TypeError):
        raise DataError(f'{path}: must be {{"train": [image ids], "val": [...], "test": [...]}}') from None


def _split_by_hash(key: int) -> str:
    share = hashlib.blake2b(f"visual-genome/{key}".encode(), digest_size=1).digest()[0] / 256
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def _aliases(path: Path, summary: Summary) -> dict[str, str]:
    """Name -> the first name on its line. Raises DataError."""
    if not path.is_file():
        summary.notes.append(f"no {path.name}: synonyms stay classes of their own")
        return {}
    try:
        rows = [[name.strip() for name in line.split(",")] for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    return {name: row[0] for row in rows for name in row if name and row[0]}


def _read_images(
    path: Path, split_of: SplitOf, split: str, images: Images, summary: Summary
) -> tuple[dict[int, Candidate], set[int]]:
    """The split's images, and the ids of all training images, which the classes are counted in."""
    candidates: dict[int, Candidate] = {}
    training: set[int] = set()
    seen: set[int] = set()
    for index, item in enumerate(_list(path)):
        try:
            key = member(item, "image_id", int, "17")
            if split_of(key) not in ("train", split):
                continue
            if key in seen:
                raise Problem("image_id", "image id standing twice", f"{key}")
            seen.add(key)
            width, height = (number(item, side, "640", above=0) for side in ("width", "height"))
            large = min(width, height) >= SMALLEST_IMAGE_PX
            if large and split_of(key) == "train":
                training.add(key)
            if split_of(key) != split:
                continue
            if large:
                candidates[key] = Candidate(find_image(images, _file_name(item, key), "url"), width, height)
            else:
                summary.dropped_images[f"under {SMALLEST_IMAGE_PX} px"] += 1
        except Problem as problem:
            summary.add_problem(path, f"[{index}]", problem)
            summary.dropped_images[problem.kind] += 1
    return candidates, training


def _file_name(item: Mapping[str, Any], key: int) -> str:
    url = item.get("url")
    return PurePosixPath(url).name if isinstance(url, str) and url else f"{key}.jpg"


def _list(path: Path) -> list[Any]:
    document = load_json(path, _NOT_NEEDED)
    if not isinstance(document, list):
        raise DataError(f"{path}: must be a list with an item for each image, as Visual Genome's is")
    return document


def _objects_by_image(path: Path, summary: Summary) -> dict[int, list[Any]]:
    objects: dict[int, list[Any]] = {}
    for index, item in enumerate(_list(path)):
        try:
            key = member(item, "image_id", int, "17")
            if key in objects:
                raise Problem("image_id", "image id standing twice", f"{key}")
            objects[key] = member(item, "objects", list, "[{...}, ...]")
        except Problem as problem:
            summary.add_problem(path, f"[{index}]", problem)
    return objects


def _names(item: Any, aliases: Mapping[str, str]) -> list[str]:
    """The names of an object, each replaced by what it is an alias of; none for an object without a list of them."""
    names = item.get("names") if isinstance(item, dict) else None
    return [aliases.get(name, name) for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _vocabulary(folder: Path, counts: Counter[str], min_instances: int) -> Vocabulary:
    """The frequent classes, most frequent first, or the built-in vocabulary where it has the same ones."""
    frequent = sorted((-count, name) for name, count in counts.items() if count >= min_instances and name)
    labels = [name for _, name in frequent]
    built_in = Vocabulary.built_in("visual-genome")
    if set(labels) == set(built_in):
        return built_in
    if not labels or IMAGE_LABEL_NAME in labels:
        most = counts.most_common(1)[0] if counts else ("none", 0)
        raise DataError(
            f"{folder}: no usable class stands {min_instances} times in the training split; the most frequent, "
            f"{most[0]!r}, stands {most[1]} times"
        )
    return Vocabulary(own_name(folder), (IMAGE_LABEL_NAME, *labels), slots=MOST + 1, background=True)


def _gather(
    path: Path,
    key: int,
    items: Iterable[Any],
    candidate: Candidate,
    ids: Mapping[str, int],
    aliases: Mapping[str, str],
    summary: Summary,
) -> None:
    """Add the objects of image `key` to it."""
    seen: set[Any] = set()
    summary.gather(path, f"image_id {key}: objects", items, lambda item: _add(item, candidate, ids, aliases, seen))


def _add(
    item: Any, candidate: Candidate, ids: Mapping[str, int], aliases: Mapping[str, str], seen: set[Any]
) -> str | None:
    """Add one object to its image, or return why it is left out. Raises Problem."""
    member(item, "names", list, '["tree"]')
    note_id(item, "object_id", int, seen)
    x, y, width, height = (number(item, side, "120") for side in "xywh")
    label = next((ids[name] for name in _names(item, aliases) if name in ids), None)
    if label is None:
        return "of rare classes"
    if min(width, height) < SMALLEST_OBJECT_PX:
        return f"under {SMALLEST_OBJECT_PX} px"
    candidate.add(label, unit_box((x, y, width, height), candidate.width, candidate.height, math.inf, "x"))
    return None
