"""True masks of objects, as the annotation files of the data state them: polygons, or RLE, compressed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle  # type: ignore[import-untyped]

from lostgan_serve.contract import Array
from lostgan_serve.errors import DataError
from lostgan_serve.layout import Box
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data.coco import CocoImages, annotations_file, read_categories, slim
from lostgan_train.data.coco_stuff import annotation_files
from lostgan_train.data.fields import Problem, box_in, id_in, unit_box, whole_id
from lostgan_train.data.images import Images
from lostgan_train.data.json_file import Json, load_json
from lostgan_train.data.records import Example, Source
from lostgan_train.data.summary import Summary
from lostgan_train.data.visual_genome import is_visual_genome

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The box of the whole image."""


class TrueObject(NamedTuple):
    """An object of an `Example`: its image, the id of its label, and its box."""

    image: Path
    label: int
    box: Box


@dataclass(frozen=True)
class TrueMask:
    """A mask as compressed RLE, which takes some hundred bytes. size_px: height and width."""

    size_px: tuple[int, int]
    counts: bytes

    def pixels(self) -> Array:
        """The mask as the annotations have it: [H, W] bool."""
        return _decoded({"size": list(self.size_px), "counts": self.counts}).astype(bool)


def objects_of(example: Example) -> list[TrueObject]:
    """The objects of an image, in their order."""
    return [TrueObject(example.image, *pair) for pair in zip(example.labels, example.boxes, strict=True)]


def all_objects(examples: Iterable[Example]) -> list[TrueObject]:
    """The objects of images, in their order."""
    return [item for example in examples for item in objects_of(example)]


def without_masks(folder: Path) -> str | None:
    """Why there are no true masks in a folder of data."""
    return f"{folder}: Visual Genome annotates boxes, and no masks" if is_visual_genome(folder) else None


def only_boxes(folder: Path) -> str:
    """The words for data in which no mask was found."""
    return f"{folder}: its annotations have no masks (segmentation), only boxes"


NOBODY = -1
"""The owner of a pixel that belongs to no object, or of which it is not known."""


@dataclass(frozen=True)
class Owners:
    """The object that each pixel truly belongs to. masks: of objects. side_px: S."""

    masks: Mapping[TrueObject, TrueMask]
    side_px: int

    def of(self, example: Example) -> Array:
        """The index of the object that owns each pixel, [S, S] int16, `NOBODY` for none.

        Where masks overlap, the smaller one's object does. An object without a mask makes its box unknown, but for the
        masks in it that are smaller.
        """
        regions = [self._region(item) for item in objects_of(example)]
        owners = np.full((self.side_px, self.side_px), NOBODY, np.int16)
        for slot in sorted(range(len(regions)), key=lambda slot: -int(regions[slot][0].sum())):
            region, known = regions[slot]
            owners[region] = slot if known else NOBODY
        return owners

    def _region(self, item: TrueObject) -> tuple[Array, bool]:
        """The mask of an object, or its box where there is none, [S, S] bool, and whether it is the mask."""
        if (mask := self.masks.get(item)) is not None:
            return cut(mask.pixels(), WHOLE, self.side_px), True
        x, y, width, height = (round(part * self.side_px) for part in item.box)
        box = np.zeros((self.side_px, self.side_px), bool)
        box[y : y + height, x : x + width] = True
        return box, False


def read_owners(source: Source, folder: Path, images: Path | None, side_px: int) -> Owners:
    """Read the true masks of all objects of a training split. images: see `open_data`.

    Raises DataError where it has none, and what `open_data` raises.
    """
    if reason := without_masks(folder):
        raise DataError(reason)
    if not (masks := read_masks(folder, "train", source.vocabulary, all_objects(source.examples), images)):
        raise DataError(only_boxes(folder))
    return Owners(masks, side_px)


def read_masks(
    folder: Path, split: str, vocabulary: Vocabulary, wanted: Iterable[TrueObject], images: Path | None = None
) -> dict[TrueObject, TrueMask]:
    """Read the masks of objects from a set's one file, or of COCO-Stuff from the two files of a split.

    images: see `open_data`. An object whose mask is not stated, or damaged, is left out. Each annotation is let go of
    once it is read, since COCO-Stuff has 860,000. Raises InputError and DataError, as `open_data`.
    """
    own = annotations_file(folder)
    files = [own] if own else annotation_files(folder, split)
    left, found = set(wanted), dict[TrueObject, TrueMask]()
    known_images: CocoImages | None = None
    for path in files:
        document = load_json(path, _without_annotations)
        if known_images is None:
            parts = [] if own else [f"{split}2017"]
            known_images = CocoImages(document, path, Images(folder, images, parts), Summary(str(folder)))
        known = {name: label for label, name in enumerate(vocabulary.labels)}
        names = read_categories(document, path)
        labels = {key: known[name] for key, name in names.items() if name in known}
        load_json(path, _taker(known_images, labels, left, found))
    return found


def cut(mask: Array, box: Box, side_px: int) -> Array:
    """Cut a box out of a mask, [H, W] bool, and resize it: [S, S] bool, True where it covers half a pixel or more."""
    height, width = mask.shape
    x, y, w, h = box
    part = (x * width, y * height, min((x + w) * width, width), min((y + h) * height, height))
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(levels.resize((side_px, side_px), Image.Resampling.BILINEAR, part)) >= 128


def _without_annotations(item: Json) -> Json | None:
    return None if "image_id" in item else item


def _taker(
    images: CocoImages, labels: Mapping[int, int], left: set[TrueObject], found: dict[TrueObject, TrueMask]
) -> Callable[[Json], Json | None]:
    """Make a `slim` of `load_json` that moves the objects in `left` to `found`, with their masks."""

    def take(item: Json) -> Json | None:
        if "image_id" not in item:
            return item
        with suppress(Problem, LookupError):  # what the reader of the data has told of, and left out
            segmentation = item.get("segmentation")
            image, label = images.by_id[id_in(item, "image_id")], labels[whole_id(item, "category_id")]
            if segmentation and image is not None:
                box = unit_box(box_in(slim(item), "bbox"), image.width, image.height, overhang=1.0)
                one = TrueObject(image.image, label, box)
                if one in left and (mask := _encoded(segmentation, round(image.height), round(image.width))):
                    left.remove(one)
                    found[one] = mask
        return None

    return take


def _encoded(segmentation: Any, height: int, width: int) -> TrueMask | None:
    """A segmentation as a mask; None for one that is damaged, empty or of another size than its image."""
    try:
        code = _compressed(segmentation, height, width)
        pixels = _decoded(code)
        if pixels.shape != (height, width) or not pixels.any():
            return None
    except Exception:  # pycocotools raises whatever comes: ValueError, TypeError, Exception itself
        return None
    return TrueMask((height, width), code["counts"])


def _compressed(segmentation: Any, height: int, width: int) -> Json:
    code: Json
    if not isinstance(segmentation, dict):
        polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
        code = rle.merge(rle.frPyObjects([polygon for polygon in polygons if len(polygon) >= 6], height, width))
    elif isinstance(segmentation["counts"], str):
        code = {"size": segmentation["size"], "counts": segmentation["counts"].encode()}
    else:
        code = rle.frPyObjects(segmentation, height, width)
    return code


def _decoded(code: Json) -> Array:
    """The levels of a mask, 0 and 1. Raises ValueError for one that is cut off, of which the rest is whatever stood in
    memory."""
    pixels: Array = rle.decode(code)
    if int(pixels.sum(dtype=np.int64)) != int(rle.area(code)) or pixels.max(initial=0) > 1:
        raise ValueError("not a mask")
    return pixels
