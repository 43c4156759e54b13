"""Small data sets in the formats that training reads, written by the tests that need them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Source

SCENES = [{"id": key, "name": name} for key, name in enumerate(Vocabulary.built_in("scenes").labels) if key]
PETS = [{"id": 30, "name": "dog", "supercategory": "animal"}, {"id": 4, "name": "cat", "supercategory": "animal"}]
RLE = {"size": [100, 100], "counts": "PPYo0"}

Json = dict[str, Any]


def image_of(key: int, name: str | None = None, size: tuple[int, int] = (100, 100)) -> Json:
    return {"id": key, "file_name": name or f"{key:04d}.png", "width": size[0], "height": size[1], "license": 1}


def box_of(key: int, image: int, category: int, box: Sequence[float | str], **more: Any) -> Json:
    box = list(box)
    annotation = {"id": key, "image_id": image, "category_id": category, "bbox": box, "area": 1200.5, "iscrowd": 0}
    return annotation | {"segmentation": RLE} | more


def boxes_of(image: int, categories: Sequence[int], side: float = 50) -> list[Json]:
    return [box_of(100 * image + n, image, category, [n, 0, side, side]) for n, category in enumerate(categories)]


def paint(path: Path, size: tuple[int, int] = (100, 100)) -> None:
    """A picture whose every pixel is different from its mirror image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, np.full_like(x, sum(map(ord, path.stem)) % 256)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco(
    folder: Path, images: list[Json], annotations: list[Json], categories: list[Json], name: str = "annotations.json"
) -> Path:
    """A COCO JSON and, in images/, whatever of its images is not there yet."""
    document = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for image in images:
        paint(folder / "images" / image["file_name"], (image["width"], image["height"]))
    return folder


def pets(folder: Path, images: int = 4) -> Path:
    """A set of one's own: a dog, a cat and a box too small in every picture."""
    annotations = [
        annotation
        for key in range(images)
        for annotation in (
            box_of(10 * key + 1, key, 30, [10, 20, 30, 40]),
            box_of(10 * key + 2, key, 4, [50, 50, 50, 50]),
            box_of(10 * key + 3, key, 4, [1, 1, 5, 5]),
        )
    ]
    return write_coco(folder, [image_of(key) for key in range(images)], annotations, PETS)


def names_of(source: Source) -> list[str]:
    return [example.image.name for example in source.examples]


BROKEN_ANNOTATIONS: list[tuple[Any, str, str]] = [
    (
        box_of(1, 1, 4, [90, 0, 30, 50]),
        "box outside the image",
        r"annotations\[1\].bbox: box outside.*\[90, 0, 30, 50\]",
    ),
    (box_of(1, 1, 4, [-200, 0, 50, 50]), "box outside the image", "on 100 x 100 px"),
    (box_of(1, 1, 4, [90, 90, -50, -50]), "box without area", r"bbox: box without area"),
    (box_of(1, 1, 4, [0, 0, 50]), "bbox impossible", r"bbox.*four finite numbers, not \[0, 0, 50\]"),
    (box_of(1, 1, 4, [0, 0, float("nan"), 50]), "bbox impossible", "four finite numbers"),
    (box_of(1, 1, 4, [0, 0, 10**400, 50]), "bbox impossible", "four finite numbers"),
    (box_of(1, 1, 5, [0, 0, 50, 50]), "unknown category", r"category_id: unknown category \(5"),
    (box_of(1, 77, 4, [0, 0, 50, 50]), "object of an unknown image", r"image_id: .*77"),
    (box_of(200, 2, 4, [0, 0, 50, 50]), "object standing twice", r"annotations\[1\].id: .*200"),
    (box_of(1, 1, 4, ["0", 0, "wide", 50]), "bbox impossible", "four finite numbers"),
    (box_of(1, 1, 4, [0, 0, 50, 50], iscrowd="maybe"), "iscrowd of a wrong type", r"\[1\].iscrowd: .*0 or 1"),
    ({"id": 1, "image_id": 1, "category_id": 4}, "bbox missing", r"bbox: bbox missing"),
    ({"id": 1, "image_id": [1], "category_id": 4}, "image_id of a wrong type", r"image_id: .*not \[1\]"),
    ("a box", "image_id missing", r"annotations\[1\].image_id"),
]
