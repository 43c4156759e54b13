"""Annotations of training data: each input is the JSON files of a set, by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_files import paint
from fuzz.mutations import either, of_bytes, of_json
from fuzz.targets import TEXT, Fuzzed, Materials, check_layout, coco_of_scenes, whole
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.vocabulary import Vocabulary

Json = dict[str, Any]

_SIDE = 240
_KEYS = range(3)


def open_coco(materials: Materials) -> Fuzzed:
    """annotations.json of a set in COCO's format."""
    folder = materials.scratch / "coco"
    _paint(folder / "images", 100)

    def target(data: bytes) -> None:
        (folder / "annotations.json").write_bytes(data)
        _check_data(folder)

    return Fuzzed(target, [coco_of_scenes()], TEXT)


def open_coco_stuff(materials: Materials) -> Fuzzed:
    """The two annotation files of COCO-Stuff."""
    folder = materials.scratch / "coco_stuff"
    _paint(folder / "train2017", _SIDE)
    files = [f"annotations/{kind}_train2017.json" for kind in ("instances", "stuff")]
    return _of_files(folder, {name: _coco_file(n) for n, name in enumerate(files)})


def open_visual_genome(materials: Materials) -> Fuzzed:
    """Visual Genome's lists of images, objects and relationships, and the file of splits."""
    folder = materials.scratch / "visual_genome"
    _paint(folder / "VG_100K", _SIDE)
    objects = [
        {"object_id": 10 * key + n, "names": [name], "x": 10 * n, "y": 5, "w": 60, "h": 80.0, "synsets": []}
        for key in _KEYS
        for n, name in enumerate(("sky", "tree", "man"))
    ]
    relationships = [
        {"predicate": "ON", "object": objects[3 * key], "subject": objects[3 * key + 1], "relationship_id": key}
        for key in _KEYS
    ]
    images = [
        {"image_id": key, "url": f"https://example.org/VG_100K/{key:04}.png", "width": _SIDE, "height": _SIDE}
        for key in _KEYS
    ]
    return _of_files(
        folder,
        {
            "image_data.json": images,
            "objects.json": [{"image_id": key, "objects": objects[3 * key : 3 * key + 3]} for key in _KEYS],
            "relationships.json": [{"image_id": key, "relationships": [relationships[key]]} for key in _KEYS],
            "vg_splits.json": {"train": [0, 1, 2], "val": [], "test": []},
        },
    )


def _of_files(folder: Path, files: Json) -> Fuzzed:
    """A target whose input is a JSON object of files; an input that is none becomes each of them by turns."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)

    def target(data: bytes) -> None:
        for name, value in files.items():
            (folder / name).write_text(json.dumps(value))
        try:
            changed = json.loads(data)
        except (ValueError, RecursionError):
            changed = None
        if isinstance(changed, dict):
            for name in files:
                (folder / name).write_text(json.dumps(changed.get(name)))
        else:
            (folder / list(files)[len(data) % len(files)]).write_bytes(data)
        _check_data(folder)

    return Fuzzed(target, [json.dumps(files).encode()], either(of_json, of_json, of_json, of_bytes))


def _check_data(folder: Path) -> None:
    """A set that is opened names labels that there are, boxes on the canvas, and files that exist."""
    from lostgan_train.data import open_data

    source = open_data(folder, min_instances=1, min_predicates=1)
    labels = source.vocabulary.labels
    for example in source.examples:
        whole(example.image.is_file(), "an image that is not there")
        whole(all(0 < label < len(labels) and labels[label] for label in example.labels), "a label that there is not")
        whole(all(0 <= weight <= 1 for weight in example.weights), "a weight that is no probability")
        named = (
            LayoutObject(labels[label], box, f"{index}")
            for index, (label, box) in enumerate(zip(example.labels, example.boxes, strict=True))
        )
        check_layout(Layout(tuple(named)))
    source.summary.lines()


def _coco_file(kind: int) -> Json:
    labels, first = Vocabulary.built_in("coco-stuff").labels, 91 * kind
    categories = [{"id": first + n, "name": labels[first + n]} for n in range(1, 5)]
    annotations = [
        {"id": 100 * kind + 10 * key + n, "image_id": key, "category_id": first + n, "bbox": [n, 9, 90, 80]}
        for key in _KEYS
        for n in range(1, 5 - 2 * kind)
    ]
    images = [{"id": key, "file_name": f"{key:04}.png", "width": _SIDE, "height": _SIDE} for key in _KEYS]
    return {"images": images, "annotations": annotations, "categories": categories}


def _paint(folder: Path, side: int) -> None:
    for key in _KEYS:
        paint(folder / f"{key:04}.png", (side, side))
