"""Visual Genome from its raw JSON, by the rules that the paper's 178 classes and its images come from.

Section 3.1 follows Johnson et al., "Image generation from scene graphs", 2018, and so does this.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME, Vocabulary, is_printable
from lostgan_train.data.fields import Id, Problem, as_id, member, number, shown, unit_box
from lostgan_train.data.images import Images
from lostgan_train.data.json_file import without
from lostgan_train.data.pixels import size_in_file
from lostgan_train.data.records import Candidate, Source, leave_out, out_of_bounds, own_name, select
from lostgan_train.data.relationships import FEWEST_RELATIONSHIPS, MOST_RELATIONSHIPS, Relationships
from lostgan_train.data.summary import Summary
from lostgan_train.data.visual_genome_files import (
    SplitOf,
    image_id,
    items_by_image,
    items_of,
    name_of_id,
    read_aliases,
    read_splits,
)

SMALLEST_IMAGE_PX = 200
SMALLEST_OBJECT_PX = 32
FEWEST, MOST = 3, 30
"""Objects in an image, the background not counted."""

PAPER_IMAGES = {"train": 62_565, "val": 5_506, "test": 5_088}

_ROOTS, _PARTS = ("images", "images2"), ("VG_100K", "VG_100K_2")
"""Folders of the images: the two archives make the parts, and people unpack each into the data folder or a root."""

_slim = without("synsets", "merged_object_ids", "coco_id", "flickr_id")

_READERS = 8  # of image files, which mostly wait for the disk


def is_visual_genome(folder: Path) -> bool:
    """Whether a folder has Visual Genome's files. Raises DataError where one of the two is missing."""
    there = {name: (folder / name).is_file() for name in ("image_data.json", "objects.json")}
    if any(there.values()) and not all(there.values()):
        missing = next(name for name, found in there.items() if not found)
        raise DataError(f"{folder / missing}: missing; Visual Genome needs {' and '.join(there)}")
    return all(there.values())


def open_visual_genome(
    folder: Path,
    split: str,
    strict: bool,
    min_instances: int,
    min_predicates: int,
    named: Path | None = None,
    splits: Path | None = None,
) -> Source:
    """Read `image_data.json` and `objects.json`, with `relationships.json`, `object_alias.txt`,
    `relationship_alias.txt` and `vg_splits.json` where they are there.

    Images of at least 200 px in both sides stay, with 3 to 30 objects and 1 to 30 relationships; objects of at least
    32 px in both sides, of classes that the training split names `min_instances` times. Where those classes are the
    built-in vocabulary's, so are their ids. Boxes are clipped at the edges of the image, over which many reach.

    named: folder of the images. splits: file of the splits. Raises DataError.
    """
    summary = Summary(str(folder), f"Visual Genome, split {split}", strict, paper_images=PAPER_IMAGES[split])
    split_of = read_splits(folder, splits, summary)
    aliases = read_aliases(folder / "object_alias.txt", "classes", summary)
    related = _relationships(folder, summary)  # first, for it needs the most memory while it is parsed
    images = Images(folder, named, _PARTS, _ROOTS)
    candidates, training = _read_images(folder / "image_data.json", split_of, split, images, summary)
    _take_sizes_from_files(candidates.values(), summary)
    objects = _Objects(folder / "objects.json", aliases, summary)
    vocabulary = _vocabulary(folder, objects.count_names(training), min_instances)
    for key, items in objects.by_image.items():
        if key not in candidates and split_of(key) == split:
            summary.dropped_objects["in images left out"] += len(items)
    kept = objects.gather(candidates, vocabulary, summary)
    if related:
        others = {key: candidate for key, candidate in training.items() if key not in candidates}
        kept |= objects.gather(others, vocabulary, Summary())  # whose predicates are counted, and nothing else
        counts = related.count(kept, set(training), split, min_predicates)
        candidates = _with_relationships(candidates, counts, summary)
    return select(candidates.values(), vocabulary, FEWEST, MOST, summary)


def _relationships(folder: Path, summary: Summary) -> Relationships | None:
    if (folder / "relationships.json").is_file():
        return Relationships(folder, summary)
    summary.notes.append("no relationships.json: the rule of 1 to 30 relationships is left out, so more images stay")
    return None


def _with_relationships(
    candidates: Mapping[int, Candidate], counts: Counter[int], summary: Summary
) -> dict[int, Candidate]:
    """The images that have 1 to 30 relationships, and those that `select` leaves out for their objects."""
    stay = {}
    for key, candidate in candidates.items():
        reason = out_of_bounds(counts[key], FEWEST_RELATIONSHIPS, MOST_RELATIONSHIPS, "relationships")
        if reason and not out_of_bounds(len(candidate.labels), FEWEST, MOST, "objects"):
            leave_out(candidate, reason, summary)
        else:
            stay[key] = candidate
    return stay


def _read_images(
    path: Path, split_of: SplitOf, split: str, images: Images, summary: Summary
) -> tuple[dict[int, Candidate], dict[int, Candidate]]:
    """The split's images whose file is there, and all training images, in which classes and predicates are counted."""
    candidates: dict[int, Candidate] = {}
    training: dict[int, Candidate] = {}
    seen: set[int] = set()
    for index, item in enumerate(items_of(path, _slim)):
        try:
            key = image_id(item)
            if split_of(key) not in ("train", split):
                continue
            if key in seen:
                raise Problem("image_id", "image id standing twice", f"{key}")
            seen.add(key)
            width, height = (number(item, side, "640", above=0) for side in ("width", "height"))
            large = min(width, height) >= SMALLEST_IMAGE_PX
            if large and split_of(key) == "train":
                training[key] = Candidate(Path(), width, height)
            if split_of(key) != split:
                continue
            if large:
                candidates[key] = Candidate(images.find(_file_name(item, key), "url"), width, height)
            else:
                summary.dropped_images[f"under {SMALLEST_IMAGE_PX} px"] += 1
        except Problem as problem:
            summary.add_problem(path, f"[{index}]", problem)
            summary.dropped_images[problem.kind] += 1
    return candidates, training


def _file_name(item: Mapping[str, Any], key: int) -> str:
    url = item.get("url")
    return PurePosixPath(url).name if isinstance(url, str) and url else f"{key}.jpg"


def _take_sizes_from_files(candidates: Iterable[Candidate], summary: Summary) -> None:
    """Give images the size that their file has, where image_data.json says another.

    Boxes are in pixels of the file, as Johnson's work takes them. A header takes 40 us of a CPU, three seconds for the
    86,000 images of the training split.
    """
    candidates = list(candidates)
    with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
        warnings.simplefilter("ignore")  # they name no file: a damaged EXIF tag, a very large image
        sizes = list(pool.map(lambda each: size_in_file(each.image, (each.width, each.height)), candidates))
    differing = 0
    for candidate, size in zip(candidates, sizes, strict=True):
        if size and size != (candidate.width, candidate.height):  # training tells of what it cannot decode
            candidate.width, candidate.height = size
            differing += 1
    if differing:
        summary.notes.append(f"images of another size than image_data.json says: {differing:,}; boxes go by the files")


class _Objects:
    """The objects of each image."""

    def __init__(self, path: Path, aliases: Mapping[str, str], summary: Summary) -> None:
        self.path, self.aliases = path, aliases
        self.by_image = items_by_image(path, "objects", _slim, summary)

    def count_names(self, training: Iterable[int]) -> Counter[str]:
        """The number of objects of the training images that each name stands for."""
        objects = (item for key in training for item in self.by_image.get(key, ()))
        return Counter(name for item in objects for name in set(_names(item, self.aliases)))

    def gather(
        self, candidates: Mapping[int, Candidate], vocabulary: Vocabulary, summary: Summary
    ) -> dict[int, set[Id | None]]:
        """Add their objects to images. Returns the ids of those that were added, by image."""
        labels = {name: label for label, name in enumerate(vocabulary.labels) if label}
        kept: dict[int, set[Id | None]] = {}
        for key, candidate in candidates.items():
            add = partial(self._add, labels, candidate, set(), kept.setdefault(key, set()))
            summary.gather(self.path, f"image_id {key}: objects", self.by_image.get(key, ()), add)
        return kept

    def _add(
        self, labels: Mapping[str, int], candidate: Candidate, seen: set[Id | None], kept: set[Id | None], item: Any
    ) -> str | None:
        """Add one object to its image, or return the reason for leaving it out. Raises Problem."""
        member(item, "names", list, '["tree"]')
        field = name_of_id(item, "object_id")
        own_id = as_id(item.get(field))
        if own_id is not None and own_id in seen:
            raise Problem(field, "object id standing twice", shown(own_id))
        seen.add(own_id)
        label = next((labels[name] for name in _names(item, self.aliases) if name in labels), None)
        if label is None:
            return "of rare classes"
        x, y, width, height = (number(item, side, "120") for side in "xywh")
        if min(width, height) < SMALLEST_OBJECT_PX:
            return f"under {SMALLEST_OBJECT_PX} px"
        candidate.add(label, unit_box((x, y, width, height), candidate.width, candidate.height, math.inf, "x"))
        kept.add(own_id)
        return None


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
            f"{shown(most[0])}, stands {most[1]} times"
        )
    if unprintable := [name for name in labels if not is_printable(name)]:
        raise DataError(f"{folder}: the class {shown(unprintable[0])} cannot be printed as a label; mend objects.json")
    return Vocabulary(own_name(folder), (IMAGE_LABEL_NAME, *labels), slots=MOST + 1, background=True)
