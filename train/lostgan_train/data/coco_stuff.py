"""COCO-Stuff 2017, by the paper's filters: things and stuff, each in a file of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data.coco import OTHER, CocoImages, read_categories, slim
from lostgan_train.data.fields import as_id, shown
from lostgan_train.data.images import Images
from lostgan_train.data.json_file import load_json
from lostgan_train.data.records import Candidate, Source, leave_out, select
from lostgan_train.data.summary import Summary

PAPER_IMAGES = {"val": 3_097}
"""Images of COCO-Stuff that the paper evaluates on."""

FEWEST, LEAST_SHARE = 3, math.nextafter(0.02, 1)
"""Objects of an image, and the share of it that an object has: a box of exactly 2% is left out."""


def is_coco_stuff(folder: Path, split: str) -> bool:
    """Whether a folder has the files of that split. Raises DataError where one of the two is missing."""
    there = [path for path in annotation_files(folder, split) if path.is_file()]
    if len(there) == 1:
        missing = next(path for path in annotation_files(folder, split) if path not in there)
        raise DataError(f"{missing}: missing beside {there[0].name}; COCO-Stuff needs both")
    if not there and any(
        path.is_file() for path in annotation_files(folder, "train") + annotation_files(folder, "val")
    ):
        names = " and ".join(str(path) for path in annotation_files(folder, split))
        raise DataError(f"{folder}: this COCO-Stuff has no split {split!r}; the files are {names}")
    return bool(there)


def annotation_files(folder: Path, split: str) -> list[Path]:
    """The files of a split: things, and stuff."""
    return [folder / "annotations" / f"{kind}_{split}2017.json" for kind in ("instances", "stuff")]


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
    files = Images(folder, named, [f"{split}2017"])
    images = None
    for path in annotation_files(folder, split):
        document = load_json(path, slim)
        labels = _labels(read_categories(document, path), vocabulary, path)
        images = images or CocoImages(document, path, files, summary)
        images.gather(document, path, labels, LEAST_SHARE)
    assert images is not None
    candidates = images.distinct()
    if stuff_only:  # the last document is that of stuff
        candidates = _with_stuff(images, document, summary)
    return select(candidates, vocabulary, FEWEST, vocabulary.slots, summary)


def _with_stuff(images: CocoImages, stuff: Any, summary: Summary) -> list[Candidate]:
    """The images that have annotations of stuff."""
    keys = {as_id(item.get("image_id")) for item in stuff["annotations"] if isinstance(item, dict)}
    files = {candidate.image for key, candidate in images.by_id.items() if candidate and key in keys}
    stay = []
    for candidate in images.distinct():
        if candidate.image in files:
            stay.append(candidate)
        else:
            leave_out(candidate, "without stuff annotations", summary)
    return stay


def _labels(names: Mapping[int, str], vocabulary: Vocabulary, path: Path) -> dict[int, int | None]:
    """Category id -> label id, None for `other`. Raises DataError for categories that are not COCO-Stuff's."""
    labels: dict[int, int | None] = {}
    for key, name in names.items():
        known = vocabulary.labels[key] if 0 < key < len(vocabulary) else ""
        if name != (known or OTHER):
            raise DataError(
                f"{path}: category {key} is {shown(name)}, in COCO-Stuff {known or OTHER!r}; for categories of your "
                "own put images/ and one annotations.json into a folder"
            )
        labels[key] = key if known else None
    return labels
