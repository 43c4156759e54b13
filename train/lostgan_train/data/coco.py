"""COCO JSON: its categories, images and annotations; the built-in scenes, and any detection set of one's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lostgan_serve.errors import DataError, VocabularyError
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME, Vocabulary
from lostgan_train.data.fields import (
    Id,
    Problem,
    as_id,
    as_number,
    box_in,
    flag,
    id_in,
    label_in,
    member,
    number,
    shown,
    unit_box,
    whole_id,
)
from lostgan_train.data.images import Images
from lostgan_train.data.json_file import Json, list_in, load_json, without
from lostgan_train.data.pixels import size_in_file
from lostgan_train.data.records import Candidate, Source, own_name, select
from lostgan_train.data.splits import check_split
from lostgan_train.data.summary import Summary

ANNOTATIONS_FILE = "annotations.json"

_SYNTHESIZED_FILE = "annotations/instances.json"
"""The annotations of a set that `synthesize` made, for which COCO's place is the usual one."""

OTHER = "other"
"""COCO-Stuff's category 183, for all that belongs to none of the classes."""

_PLACEHOLDERS = ("background", "_background_", "__background__")
"""Names of a category that stands for what belongs to none."""

_without_extras = without("license", "coco_url", "flickr_url", "date_captured")

_OVERHANG = 0.01
"""Share of the image's side by which a box may stick out and is clipped; further out it is a problem."""

_SCENES_SHARE, _OWN_SHARE = 0.003, 0.005
"""Shares of the image that an object of the scenes, and of a set of one's own, has at least."""


def annotations_file(folder: Path) -> Path | None:
    """The annotations of a set in COCO's format; None where a folder holds none. Raises OSError."""
    files = (folder / name for name in (ANNOTATIONS_FILE, _SYNTHESIZED_FILE))
    return next((file for file in files if file.is_file()), None)


def open_coco(folder: Path, path: Path, split: str, strict: bool, named: Path | None = None) -> Source:
    """Read annotations, see `annotations_file`, and the images of `images/`, or of the folder `named`.

    With the categories of the built-in scenes, their vocabulary and filters hold (objects of 0.3% of the image, 3 to
    12 of them); else the set's own (0.5%, from 1 to as many as there are slots). Raises DataError.
    """
    document = load_json(path, slim)
    check_split(document, path, split)
    names, scenes = read_categories(document, path), Vocabulary.built_in("scenes")
    of_scenes = names == {key: name for key, name in enumerate(scenes.labels) if key}
    summary = Summary(str(folder), "scenes" if of_scenes else "COCO-format set", strict)
    images = CocoImages(document, path, Images(folder, named), summary)
    if not of_scenes:
        names = _without_placeholders(document, path, names, summary)
    labels = {key: key if of_scenes else label for label, key in enumerate(sorted(names), 1)}
    images.gather(document, path, labels, _SCENES_SHARE if of_scenes else _OWN_SHARE)
    if 0 < images.farthest <= 1:
        raise DataError(f"{path}: annotations: all boxes lie within [0, 1]; state them in pixels of the image")
    candidates = images.distinct()
    if of_scenes:
        return select(candidates, scenes, 3, scenes.slots, summary)
    vocabulary = _own_vocabulary(folder, path, names, candidates)
    return select(candidates, vocabulary, 1, vocabulary.slots, summary)


def slim(item: Json) -> Json:
    """Drop the members that nothing reads. An object without a box gets that of its polygons, which are dropped too."""
    segmentation = item.pop("segmentation", None)
    if segmentation and item.get("bbox") in (None, []) and (box := _extent(segmentation)):
        item["bbox"] = box
    return _without_extras(item)


def _extent(segmentation: Any) -> list[float] | None:
    """The box around polygons, [[x, y, x, y, ...], ...] or one of them alone; None for anything else."""
    polygons = segmentation if isinstance(segmentation, list) else []
    if all(isinstance(polygon, list) for polygon in polygons):
        polygons = [value for polygon in polygons for value in polygon]
    values = [number for value in polygons if (number := as_number(value)) is not None]
    if len(values) < 6 or len(values) % 2 or len(values) != len(polygons):
        return None
    xs, ys = values[::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def read_categories(document: Any, path: Path) -> dict[int, str]:
    """Category names by id. Raises DataError: without its categories a set cannot be read."""
    names: dict[int, str] = {}
    for index, item in enumerate(list_in(document, "categories", path)):
        try:
            key, name = whole_id(item, "id"), label_in(item, "name")
        except Problem as problem:
            raise DataError(f"{path}: categories[{index}].{problem.key}: {problem}") from None
        if key in names:
            raise DataError(f"{path}: categories[{index}] ({key}, {shown(name)}): ids must differ; give it another")
        names[key] = name
    if not names:
        raise DataError(f"{path}: categories: is empty; name the classes of the objects")
    return names


def _without_placeholders(document: Any, path: Path, names: dict[int, str], summary: Summary) -> dict[int, str]:
    """The categories without those that only name the set, such as Roboflow's category 0.

    A placeholder has no annotations, and its name is that of another category, of another's supercategory, or of the
    background.
    """
    items: list[Json] = list_in(document, "categories", path)
    above = ((item.get("supercategory"), item["name"]) for item in items)
    parents = {parent for parent, name in above if isinstance(parent, str) and parent not in (name, "none")}
    annotations = list_in(document, "annotations", path)
    used = {as_id(item.get("category_id")) for item in annotations if isinstance(item, dict)}
    groups = parents | {name for key, name in names.items() if key in used}
    placeholders = [
        key for key, name in names.items() if key not in used and (name in groups or name.lower() in _PLACEHOLDERS)
    ]
    for key in placeholders:
        summary.notes.append(f"category {key}, {shown(names[key])}, has no annotations and names no class: left out")
    return {key: name for key, name in names.items() if key not in placeholders}


def _own_vocabulary(folder: Path, path: Path, names: Mapping[int, str], candidates: Iterable[Candidate]) -> Vocabulary:
    """The set's categories by ascending id, with slots for the objects of 95% of the images, 8 to 30."""
    counts = [len(candidate.labels) for candidate in candidates if candidate.labels]
    slots = math.ceil(np.percentile(counts, 95)) if counts else 0
    labels = (IMAGE_LABEL_NAME, *(names[key] for key in sorted(names)))
    try:
        return Vocabulary(own_name(folder), labels, slots=max(8, min(30, slots)))
    except VocabularyError as error:
        raise DataError(f"{path}: categories: {error}; rename them") from None


class CocoImages:
    """The images of a set by their ids, while the annotations of its files are gathered.

    An image file that stands under several ids is one image, with the objects of all of them.
    """

    def __init__(self, document: Any, path: Path, images: Images, summary: Summary) -> None:
        """Read a file's images, of which those stay whose image file is there. Raises DataError."""
        self.summary = summary
        self.by_id: dict[Id, Candidate | None] = {}  # None for one left out, whose annotations are no problem
        self._by_file: dict[Path, Candidate] = {}
        self._joined: set[Path] = set()
        self.farthest = 0.0
        """The largest number of all boxes, in pixels; 0 without any."""
        items = list_in(document, "images", path)
        images.register(item.get("file_name") for item in items if isinstance(item, dict))
        for index, item in enumerate(items):
            try:
                self._add_image(item, images)
            except Problem as problem:
                summary.add_problem(path, f"images[{index}]", problem)
                summary.dropped_images[problem.kind] += 1
        if self._joined:
            summary.notes.append(
                f"image files listed under several ids: {len(self._joined):,}; their objects are joined"
            )

    def _add_image(self, item: Any, images: Images) -> None:
        key = id_in(item, "id")
        if key in self.by_id:
            self._leave_out_ambiguous(key, item, images)
            raise Problem("id", "image id standing twice", shown(key))
        self.by_id[key] = None
        name = member(item, "file_name", str, '"0001.png"')
        stated = _stated_size(item)
        file = images.find(name, "file_name")
        size = stated or size_in_file(file)
        if size is None:
            raise Problem("width", "width and height missing", f"and {shown(name)} cannot be read; state them")
        width, height = size
        before = self._by_file.get(file)
        if before is None:
            self.by_id[key] = self._by_file[file] = Candidate(file, width, height)
            return
        if (before.width, before.height) != (width, height):
            raise Problem("width", "image file listed in two sizes", f"{shown(name)}: {width:g} x {height:g} px")
        self.by_id[key] = before
        self._joined.add(file)

    def _leave_out_ambiguous(self, key: Id, item: Any, images: Images) -> None:
        """Leave out the image of an id that stands for another file, too: its annotations may be of either."""
        before, name = self.by_id[key], member(item, "file_name", str, '"0001.png"')
        if before is not None and images.find(name, "file_name") != before.image:
            self.by_id[key] = None
            self._by_file.pop(before.image, None)
            self.summary.dropped_images["image id standing twice"] += 1

    def distinct(self) -> list[Candidate]:
        """The images, each once, in their order."""
        return list(self._by_file.values())

    def gather(self, document: Any, path: Path, labels: Mapping[int, int | None], least_share: float) -> None:
        """Add a file's annotations to their images, but for crowds and what is small.

        labels: the label's id of each category, None for COCO-Stuff's `other`. least_share: of the image.
        """
        seen: set[Id | None] = set()
        items = list_in(document, "annotations", path)
        self.summary.gather(path, "annotations", items, lambda item: self._add(item, labels, least_share, seen))

    def _add(self, item: Any, labels: Mapping[int, int | None], least_share: float, seen: set[Id | None]) -> str | None:
        """Add one annotation to its image, or return the reason for leaving it out. Raises Problem."""
        key = id_in(item, "image_id")
        if key not in self.by_id:
            raise Problem("image_id", "object of an unknown image", f"{shown(key)} is no image's id")
        category = whole_id(item, "category_id")
        if category not in labels:
            raise Problem("category_id", "unknown category", f"{category} is not among the categories")
        candidate, label = self.by_id[key], labels[category]
        if candidate is None:
            return "in images left out"
        if flag(item, "iscrowd"):
            return "crowds"
        if label is None:
            return f"of class {OTHER}"
        box = box_in(item, "bbox")
        self.farthest = max(self.farthest, *box)
        if box[2] * box[3] / (candidate.width * candidate.height) < least_share:
            return f"under {least_share:.1%} of the image"
        unit = unit_box(box, candidate.width, candidate.height, _OVERHANG)  # last: boxes without area are small first
        own = as_id(item.get("id"))
        # many tools number annotations anew in each image: an id may come again, the same object may not
        again = own is not None and own in seen
        if (again or candidate.image in self._joined) and candidate.has(label, unit):
            raise Problem("id", "object standing twice", shown(own))
        seen.add(own)
        candidate.add(label, unit, _score(item))
        return None


def _stated_size(item: Any) -> tuple[float, float] | None:
    """The width and height of an image, None where one of them is missing, null or 0. Raises Problem for others."""
    if any(item.get(side) is None or as_number(item[side]) == 0 for side in ("width", "height")):
        return None
    width, height = (number(item, side, "640", above=0) for side in ("width", "height"))
    return width, height


def _score(item: Any) -> float:
    """The probability of an object, 1 where none is stated. Raises Problem."""
    if item.get("score") is None:
        return 1.0
    score = number(item, "score", "0.87")
    if not 0 <= score <= 1:
        raise Problem("score", "score impossible", f"a probability from 0 to 1, not {score}")
    return score
