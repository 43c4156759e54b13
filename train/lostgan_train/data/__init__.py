"""Training data: a folder of images with boxes, whatever its format, becomes a `Source` and a `LayoutDataset`."""

from __future__ import annotations

from pathlib import Path

from lostgan_serve.errors import DataError, InputError
from lostgan_serve.files import reading
from lostgan_train.data.coco import annotations_file, open_coco
from lostgan_train.data.coco_stuff import is_coco_stuff, open_coco_stuff
from lostgan_train.data.dataset import LayoutDataset
from lostgan_train.data.loading import (
    Batch,
    Batches,
    Sampling,
    batches_of,
    epoch_generator,
    load,
)
from lostgan_train.data.records import Example, Source
from lostgan_train.data.splits import SPLITS, check_split
from lostgan_train.data.summary import Summary
from lostgan_train.data.visual_genome import is_visual_genome, open_visual_genome

__all__ = [
    "Batch",
    "Batches",
    "Example",
    "LayoutDataset",
    "Sampling",
    "Source",
    "Summary",
    "batches_of",
    "check_split",
    "epoch_generator",
    "load",
    "open_data",
]

_EXPECTED = (
    "annotations.json and images/ (scenes, or a COCO detection set of your own); "
    "annotations/instances.json and images/ (a set that `lostgan-serve synthesize` made); "
    "annotations/instances_train2017.json and stuff_train2017.json, and train2017/ (COCO-Stuff); "
    "image_data.json, objects.json, VG_100K/ and VG_100K_2/ (Visual Genome)"
)


def open_data(
    folder: Path,
    *,
    split: str = "train",
    strict: bool = False,
    images: Path | None = None,
    splits: Path | None = None,
    min_instances: int = 2000,
    min_predicates: int = 500,
    stuff_only: bool = True,
) -> Source:
    """Read a data set by the format that its files show, with the filters of the paper's section 3.1.

    split: "train" or "val"; Visual Genome has "test" besides. Drawn scenes are "val" if their seeds are held out, any
    other set in COCO's format is "train". strict: problems of the data are refused and not skipped. images: the folder
    of the images, where it is not inside `folder`. stuff_only: images of COCO-Stuff without stuff annotations are left
    out. The rest is for Visual Genome. splits: file of the ids in each split, by default `folder`/vg_splits.json.
    min_instances, min_predicates: how often the training split must show a class, and a predicate of relationships.

    Raises InputError for a file or folder that is missing or may not be read, and DataError: no known format, a file
    that is not what its name says, no image left, and with `strict` the first problem.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise DataError(f"split {split!r}: there are {', '.join(SPLITS)}")
    with reading(folder):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; `lostgan-serve scenes --out {folder}` would draw a set there")
        if images is not None and not images.is_dir():
            raise InputError(f"{images}: no such folder of images; name the one that holds the image files")
        if splits is not None and not (folder / "objects.json").is_file():
            raise DataError(f"{splits}: only Visual Genome has a file of splits, and {folder} holds none; leave it out")
        if path := annotations_file(folder):
            return open_coco(folder, path, split, strict, images)
        if is_coco_stuff(folder, split):
            return open_coco_stuff(folder, split, strict, images, stuff_only)
        if is_visual_genome(folder):
            return open_visual_genome(folder, split, strict, min_instances, min_predicates, images, splits)
        raise DataError(f"{folder}: holds no data of a known format; these are: {_EXPECTED}")
