"""The formats of a data set: what each writes for a shard, and once for all of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lostgan_serve.contract import Array
from lostgan_serve.errors import require
from lostgan_serve.synthesize.parts import Part
from lostgan_serve.synthesize.store import compact_json
from lostgan_serve.vocabulary import Vocabulary

Record = dict[str, Any]
"""A record of an image or an annotation, as COCO has it."""


@dataclass(frozen=True)
class LabelledImage:
    """An image's record and its annotations'. Its file is `record["file_name"]` in images/."""

    record: Record
    annotations: list[Record]


@dataclass(frozen=True)
class Whole:
    """A data set once all shards are there. info: the facts about it. parts: reads those of the shards, one after
    another, so that memory does not grow with the set."""

    info: Record
    parts: Callable[[], Iterator[Part]]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Format:
    """A format of the data set.

    pieces: the names of a shard's files and folders, with {shard} for its own. write: puts those that are not images
    into a folder that holds the images. finish: puts the files for all shards into a folder, and returns their names.
    """

    pieces: tuple[str, ...]
    write: Callable[[Path, str, Sequence[LabelledImage], Vocabulary], None] | None = None
    finish: Callable[[Path, Whole], list[str]] | None = None


IMAGES = "images/{shard}"
"""The folder of a shard's images."""


def _merge_coco(stage: Path, whole: Whole) -> list[str]:
    """COCO's JSON of all images."""
    name = "annotations/instances.json"
    (stage / name).parent.mkdir(parents=True)
    labels = whole.vocabulary
    head = {
        "info": whole.info,
        "licenses": [{"id": 1, "name": "as the model and its training data permit", "url": ""}],
        "categories": [{"id": labels.id_of(label), "name": label, "supercategory": ""} for label in labels],
    }
    with (stage / name).open("w", encoding="utf-8") as file:
        file.write(compact_json(head)[:-1])
        for key in ("images", "annotations"):
            file.write(f',\n"{key}":[')
            between = "\n"
            for part in whole.parts():
                if lines := part.records[key]:
                    file.write(between + ",\n".join(lines))
                    between = ",\n"
            file.write("\n]")
        file.write("}\n")
    return [name]


def _write_yolo(
    numbers: Callable[[Record, int], Iterable[float]],
    stage: Path,
    shard: str,
    images: Sequence[LabelledImage],
    vocabulary: Vocabulary,
) -> None:
    """A text file for each image, with a line for each object: its class, then its `numbers`, in units of the image.
    Classes count from 0 in the vocabulary's order."""
    (stage / "labels" / shard).mkdir(parents=True)
    classes = {vocabulary.id_of(label): number for number, label in enumerate(vocabulary)}
    for image in images:
        side = image.record["width"]
        lines = [
            " ".join([str(classes[one["category_id"]]), *(f"{value:.6g}" for value in numbers(one, side))]) + "\n"
            for one in image.annotations
        ]
        (stage / "labels" / image.record["file_name"]).with_suffix(".txt").write_text("".join(lines), "utf-8")


def _box_numbers(annotation: Record, side_px: int) -> list[float]:
    x, y, width, height = annotation["bbox"]
    return [value / side_px for value in (x + width / 2, y + height / 2, width, height)]


def _polygon_numbers(annotation: Record, side_px: int) -> list[float]:
    return [float(value) / side_px for value in polygon(annotation["segmentation"]).ravel()]


def _finish_yolo(stage: Path, whole: Whole) -> list[str]:
    lines = [
        "# Name the folder of your real images at val: generated ones do not tell how good a detector is.",
        "train: images",
        "val: images",
        "names:",
        *(f"  {number}: {json.dumps(label)}" for number, label in enumerate(whole.vocabulary)),
    ]
    (stage / "data.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    return ["data.yaml"]


def _write_tar(stage: Path, shard: str, images: Sequence[LabelledImage], vocabulary: Vocabulary) -> None:
    """Each image and a JSON file with its record, its annotations and their labels."""
    target = stage / "webdataset" / f"{shard}.tar"
    target.parent.mkdir(parents=True)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image in images:
            file = stage / "images" / image.record["file_name"]
            labels = [vocabulary.labels[one["category_id"]] for one in image.annotations]
            record = {"image": image.record, "annotations": image.annotations, "labels": labels}
            for name, data in ((file.name, file.read_bytes()), (f"{file.stem}.json", compact_json(record).encode())):
                entry = tarfile.TarInfo(name)  # without times and owners: the same shard has the same bytes
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


FORMATS = {
    "coco": Format((IMAGES,), finish=_merge_coco),
    "yolo": Format((IMAGES, "labels/{shard}"), partial(_write_yolo, _box_numbers), _finish_yolo),
    "yolo-seg": Format((IMAGES, "labels/{shard}"), partial(_write_yolo, _polygon_numbers), _finish_yolo),
    "webdataset": Format(("webdataset/{shard}.tar",), _write_tar),
}
"""The formats of `choices.DATA_FORMATS`."""


def polygon(segment: Record) -> Array:
    """One polygon around a segment, [n, 2] x and y in px: YOLO has room for no more. Parts of a segment are joined by
    lines between their nearest points, there and back. Raises MissingExtraError."""
    cv2 = require("cv2", "synthesize")
    mask = require("pycocotools.mask", "synthesize").decode(segment)
    found, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted((contour[:, 0].astype(np.float64) for contour in found), key=len, reverse=True)
    joined = contours[0]
    for other in contours[1:]:
        apart = ((joined[:, None] - other[None]) ** 2).sum(-1)
        here, there = np.unravel_index(apart.argmin(), apart.shape)
        loop = np.concatenate([other[there:], other[: there + 1]])
        joined = np.concatenate([joined[: here + 1], loop, joined[here:]])
    return joined if len(joined) > 2 else np.repeat(joined, 3, axis=0)  # readers want three points
