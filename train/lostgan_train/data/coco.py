"""COCO JSON: COCO-Stuff 2017, the built-in scenes, and any COCO-format detection set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lostgan_serve.errors import DataError, VocabularyError
from lostgan_serve.layout import Box
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME, Vocabulary
from lostgan_train.data.source import (
    Candidate,
    Images,
    Problem,
    Source,
    Summary,
    find_image,
    is_finite,
    leave_out,
    list_in,
    load_json,
    member,
    note_id,
    number,
    own_name,
    select,
    unit_box,
    without,
)
from lostgan_train.synthetic.dataset import DESCRIPTION, FIRST_HELD_OUT_SEED

OVERHANG = 0.01
"""Share of the image's side by which a box may stick out and is clipped; further out it is a problem."""

_OTHER = "other"
"""COCO-Stuff's category 183, whatever is not one of the classes."""

_slim = without("segmentation", "license", "coco_url", "flickr_url", "date_captured")

PAPER_IMAGES = {"val": 3_097}
"""Images of COCO-Stuff that the paper evaluates on."""

ImageId = int | str
Candidates = dict[ImageId, Candidate | None]
"""The images by their id; None for one that was skipped, whose annotations are no problem of their own."""


def open_coco(folder: Path, split: str, strict: bool, named: Path | None = None) -> Source:
    """Read `annotations.json` and the images of `images/`, or of the folder `named`.

    With the categories of the built-in scenes, their vocabulary and filters hold (objects of 0.3% of the image, 3 to
    12 of them); else the set's own (0.5%, from 1 to as many as there are slots). Raises DataError.
    """
    path = folder / "annotations.json"
    document = load_json(path, _slim)
    check_split(document, path, split)
    names, scenes = _categories(document, path), Vocabulary.built_in("scenes")
    of_scenes = all(0 < key < len(scenes) and scenes.labels[key] == name for key, name in names.items())
    summary = Summary(str(folder), "scenes" if of_scenes else "COCO-format set", strict)
    labels = {key: key if of_scenes else label for label, key in enumerate(sorted(names), 1)}
    candidates = _candidates(document, path, Images(folder, named), summary)
    _gather(document, path, candidates, labels, 0.003 if of_scenes else 0.005, summary)
    kept = [candidate for candidate in candidates.values() if candidate]
    if of_scenes:
        return select(kept, scenes, 3, scenes.slots, summary)
    vocabulary = _own_vocabulary(folder, path, names, kept)
    return select(kept, vocabulary, 1, vocabulary.slots, summary)


def check_split(document: Any, path: Path, split: str) -> None:
    """Raise DataError for a set that is not that split: scenes from held-out seeds are "val", all else is "train"."""
    seeds = _drawn_seeds(document, path)
    if split == "train":
        if seeds and seeds[-1] >= FIRST_HELD_OUT_SEED:
            raise DataError(
                f"{path}: info.plan: has seeds up to {seeds[-1]}, and those from {FIRST_HELD_OUT_SEED} on are held out "
                "for evaluation; train on scenes of lower seeds, or read these as split 'val'"
            )
    elif not seeds:
        raise DataError(f"{path}: a COCO-format set is all one split; keep the images of {split!r} in another folder")
    elif split != "val" or seeds[0] < FIRST_HELD_OUT_SEED:
        raise DataError(
            f"{path}: info.plan: scenes from seed {seeds[0]} on are no split {split!r}; 'val' are those from seed "
            f"{FIRST_HELD_OUT_SEED} on, which `lostgan-serve scenes --held-out` draws"
        )


def _drawn_seeds(document: Any, path: Path) -> range | None:
    """The seeds of a folder of drawn scenes; None for any other set. Raises DataError for a plan without them."""
    info = document.get("info") if isinstance(document, dict) else None
    if not isinstance(info, dict) or info.get("description") != DESCRIPTION:
        return None
    try:
        first, count = (member(info.get("plan"), key, int, "1000") for key in ("first_seed", "count"))
    except Problem as problem:
        raise DataError(f"{path}: info.plan.{problem.key}: {problem}; draw the scenes again") from None
    return range(first, first + max(count, 1))


def is_coco_stuff(folder: Path, split: str) -> bool:
    """Whether a folder has the files of that split. Raises DataError where one of the two is missing."""
    there = [path for path in _stuff_files(folder, split) if path.is_file()]
    if len(there) == 1:
        missing = next(path for path in _stuff_files(folder, split) if path not in there)
        raise DataError(f"{missing}: missing beside {there[0].name}; COCO-Stuff needs both")
    if not there and any(path.is_file() for path in _stuff_files(folder, "train") + _stuff_files(folder, "val")):
        raise DataError(f"{folder}: this COCO-Stuff has no split {split!r}; the files are {_names(folder, split)}")
    return bool(there)


def _stuff_files(folder: Path, split: str) -> list[Path]:
    return [folder / "annotations" / f"{kind}_{split}2017.json" for kind in ("instances", "stuff")]


def _names(folder: Path, split: str) -> str:
    return " and ".join(str(path) for path in _stuff_files(folder, split))


def open_coco_stuff(
    folder: Path, split: str, strict: bool, named: Path | None = None, stuff_only: bool = True
) -> Source:
    """Read COCO-Stuff 2017 as the paper filters it: things and stuff over 2% of the image, no crowd, no `other`, 3 to 8
    objects. A category's id is its label's.

    named: folder of the images. stuff_only: leave out images without any stuff annotation, be it a small one or an
    `other`; so does the paper, which follows Johnson et al. Raises DataError.
    """
    vocabulary = Vocabulary.built_in("coco-stuff")
    summary = Summary(str(folder), f"COCO-Stuff 2017, split {split}", strict, paper_images=PAPER_IMAGES.get(split))
    images = Images(folder, named, [f"{split}2017"])
    candidates: Candidates = {}
    least = math.nextafter(0.02, 1)  # a box of exactly 2% is left out
    for path in _stuff_files(folder, split):
        document = load_json(path, _slim)
        labels = _stuff_labels(_categories(document, path), vocabulary, path)
        candidates = candidates or _candidates(document, path, images, summary)
        _gather(document, path, candidates, labels, least, summary)
    if stuff_only:  # the last document is that of stuff
        _leave_out_without_stuff(candidates, document, summary)
    kept = (candidate for candidate in candidates.values() if candidate)
    return select(kept, vocabulary, 3, vocabulary.slots, summary)


def _leave_out_without_stuff(candidates: Candidates, stuff: Any, summary: Summary) -> None:
    keys = (item.get("image_id") for item in stuff["annotations"] if isinstance(item, dict))
    with_stuff = {key for key in keys if isinstance(key, ImageId)}
    for key, candidate in candidates.items():
        if candidate and key not in with_stuff:
            leave_out(candidate, "without stuff annotations", summary)
            candidates[key] = None


def _stuff_labels(names: Mapping[int, str], vocabulary: Vocabulary, path: Path) -> dict[int, int | None]:
    """Category id -> label id, None for `other`. Raises DataError for categories that are not COCO-Stuff's."""
    labels: dict[int, int | None] = {}
    for key, name in names.items():
        known = vocabulary.labels[key] if 0 < key < len(vocabulary) else ""
        if name != (known or _OTHER):
            raise DataError(
                f"{path}: category {key} is {name!r}, in COCO-Stuff {known or _OTHER!r}; for categories of your own "
                "put images/ and one annotations.json into a folder"
            )
        labels[key] = key if known else None
    return labels


def _categories(document: Any, path: Path) -> dict[int, str]:
    """Category names by id. Raises DataError: without its categories a set cannot be read."""
    names: dict[int, str] = {}
    for index, item in enumerate(list_in(document, "categories", path)):
        try:
            key, name = member(item, "id", int, "7"), member(item, "name", str, '"cat"').strip()
        except Problem as problem:
            raise DataError(f"{path}: categories[{index}].{problem.key}: {problem}") from None
        if key in names or not name:
            raise DataError(f"{path}: categories[{index}] ({key}, {name!r}): ids must differ and names be given")
        names[key] = name
    if not names:
        raise DataError(f"{path}: categories: is empty; name the classes of the objects")
    return names


def _candidates(document: Any, path: Path, images: Images, summary: Summary) -> Candidates:
    """The images whose file is there, in their order."""
    candidates: Candidates = {}
    for index, item in enumerate(list_in(document, "images", path)):
        try:
            key = member(item, "id", ImageId, "17")
            if key in candidates:
                raise Problem("id", "image id standing twice", f"{key!r}")
            candidates[key] = None
            candidates[key] = _candidate(item, images)
        except Problem as problem:
            summary.add_problem(path, f"images[{index}]", problem)
            summary.dropped_images[problem.kind] += 1
    return candidates


def _candidate(item: Any, images: Images) -> Candidate:
    name = member(item, "file_name", str, '"0001.png"')
    width, height = (number(item, side, "640", above=0) for side in ("width", "height"))
    return Candidate(find_image(images, name, "file_name"), width, height)


def _gather(
    document: Any,
    path: Path,
    candidates: Candidates,
    labels: Mapping[int, int | None],
    least_share: float,
    summary: Summary,
) -> None:
    """Add a file's annotations to their images: those of at least `least_share` of the image, no crowd."""
    seen: set[Any] = set()
    items = list_in(document, "annotations", path)
    summary.gather(path, "annotations", items, lambda item: _add(item, candidates, labels, least_share, seen))


def _add(
    item: Any, candidates: Candidates, labels: Mapping[int, int | None], least_share: float, seen: set[Any]
) -> str | None:
    """Add one annotation to its image, or return why it is left out. Raises Problem."""
    key = member(item, "image_id", ImageId, "17")
    if key not in candidates:
        raise Problem("image_id", "object of an unknown image", f"{key!r} is no image's id")
    category = member(item, "category_id", int, "7")
    if category not in labels:
        raise Problem("category_id", "unknown category", f"{category} is not among the categories")
    note_id(item, "id", ImageId, seen)
    candidate, label = candidates[key], labels[category]
    if candidate is None:
        return "in images left out"
    if item.get("iscrowd"):
        return "crowds"
    if label is None:
        return f"of class {_OTHER}"
    box = _box(item)
    if box[2] * box[3] / (candidate.width * candidate.height) < least_share:
        return f"under {least_share:.1%} of the image"
    unit = unit_box(box, candidate.width, candidate.height, OVERHANG)  # last: boxes without area are too small first
    candidate.add(label, unit, _score(item) if "score" in item else 1.0)
    return None


def _box(item: Any) -> Box:
    box = member(item, "bbox", list, "[x, y, width, height]")
    if len(box) != 4 or not all(map(is_finite, box)):
        raise Problem("bbox", "bbox impossible", f"a box is four finite numbers, not {str(box)[:60]}")
    return box[0], box[1], box[2], box[3]


def _score(item: Any) -> float:
    score = number(item, "score", "0.87")
    if not 0 <= score <= 1:
        raise Problem("score", "score impossible", f"a probability from 0 to 1, not {score}")
    return score


def _own_vocabulary(folder: Path, path: Path, names: Mapping[int, str], candidates: Iterable[Candidate]) -> Vocabulary:
    """The set's categories by ascending id, with slots for the objects of 95% of the images, 8 to 30."""
    counts = [len(candidate.labels) for candidate in candidates if candidate.labels]
    slots = math.ceil(np.percentile(counts, 95)) if counts else 0
    labels = (IMAGE_LABEL_NAME, *(names[key] for key in sorted(names)))
    try:
        return Vocabulary(own_name(folder), labels, slots=max(8, min(30, slots)))
    except VocabularyError as error:
        raise DataError(f"{path}: categories: {error}; rename them") from None
