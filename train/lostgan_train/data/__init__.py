"""Training data: a folder of images with boxes, whatever its format, becomes a `Source` and a `LayoutDataset`."""

from __future__ import annotations

from pathlib import Path

from lostgan_serve.errors import DataError
from lostgan_train.data.coco import is_coco_stuff, open_coco, open_coco_stuff
from lostgan_train.data.dataset import Batch, LayoutDataset, batches_of, loader
from lostgan_train.data.source import Example, Source, Summary
from lostgan_train.data.visual_genome import SPLITS, is_visual_genome, open_visual_genome

__all__ = ["Batch", "Example", "LayoutDataset", "Source", "Summary", "batches_of", "loader", "open_data"]

_EXPECTED = """
  scenes, or your own COCO detection set: annotations.json, images/
  COCO-Stuff 2017: annotations/instances_train2017.json, annotations/stuff_train2017.json, images/ or train2017/
  Visual Genome: image_data.json, objects.json, VG_100K/ and VG_100K_2/ or images/"""


def open_data(folder: Path, *, split: str = "train", strict: bool = False, min_instances: int = 2000) -> Source:
    """Read a data set by the format that its files show, with the filters of the paper's section 3.1.

    split: "train" or "val"; Visual Genome has "test" besides, a COCO-format set is all one split. strict: problems of
    the data are refused and not skipped. min_instances: how often Visual Genome must show a class in its training
    split. Raises DataError: no such folder, no known format, a file that is not what its name says, no image left, and
    with `strict` the first problem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `lostgan-serve scenes --out {folder}` would draw a set there")
    if split not in SPLITS:
        raise DataError(f"split {split!r}: there are {', '.join(SPLITS)}")
    if (folder / "annotations.json").is_file():
        return open_coco(folder, split, strict)
    if is_coco_stuff(folder, split):
        return open_coco_stuff(folder, split, strict)
    if is_visual_genome(folder):
        return open_visual_genome(folder, split, strict, min_instances)
    raise DataError(f"{folder}: holds no data of a known format. Expected one of:{_EXPECTED}")
