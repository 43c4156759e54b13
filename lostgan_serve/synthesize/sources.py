"""The layouts that a data set is made of: layout files, and annotation files of COCO-format sets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from lostgan_serve.errors import LayoutError
from lostgan_serve.files import reading
from lostgan_serve.layout import SMALLEST_SIDE, Box, Layout, LayoutObject, parse_layouts
from lostgan_serve.layout_schema import Finite, Text
from lostgan_serve.progress import SILENT, Progress

_IS_COCO = re.compile(rb'"annotations"\s*:')


@dataclass(frozen=True)
class Sources:
    """Layouts, and what was left out on the way: how many, by reason."""

    layouts: list[Layout]
    left_out: Counter[str] = field(default_factory=Counter)


def read_sources(paths: Sequence[Path], capacity: int, progress: Progress = SILENT) -> Sources:
    """Read layouts from files: one layout, a JSON list of them, JSON lines, or COCO-format annotations.

    capacity: the most objects that a layout may have. Images of a COCO-format set with more are left out, and so are
    its crowds, boxes without an area and images without objects. Raises LayoutError naming the file, the record and the
    field, also where nothing is left, and InputError.
    """
    layouts: list[Layout] = []
    left_out: Counter[str] = Counter()
    with progress.count("reading layouts", len(paths)) as advance:
        for number, path in enumerate(paths, 1):
            with reading(path):
                data = path.read_bytes()
            if _IS_COCO.search(data):
                layouts += _layouts_of_set(data, path, capacity, left_out)
            else:
                layouts += parse_layouts(data, path.stem, str(path))
            advance(number, "")
    if not layouts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no images"
        raise LayoutError(f"{', '.join(map(str, paths))}: no layout is left ({reasons}); give files with layouts")
    return Sources(layouts, left_out)


# Records of a set are dataclasses with slots, which are made twice as fast as models: there may be a million.


@pydantic_dataclass(slots=True)
class _Image:
    id: int
    width: Finite = Field(gt=0)
    height: Finite = Field(gt=0)
    file_name: str = ""


@pydantic_dataclass(slots=True)
class _Annotation:
    image_id: int
    category_id: int
    bbox: tuple[Finite, Finite, Finite, Finite]
    iscrowd: int = 0


@pydantic_dataclass(slots=True)
class _Category:
    id: int
    name: Text


class _Set(BaseModel):
    images: list[_Image] = Field(fail_fast=True)
    annotations: list[_Annotation] = Field(fail_fast=True)
    categories: list[_Category] = Field(fail_fast=True)


def _layouts_of_set(data: bytes, path: Path, capacity: int, left_out: Counter[str]) -> list[Layout]:
    """A layout for each image of a COCO-format set, in the file's order."""
    annotations = _validated(data, path)
    names = {category.id: category.name for category in annotations.categories}
    images = {image.id: image for image in annotations.images}
    objects: defaultdict[int, list[tuple[str, Box]]] = defaultdict(list)
    for index, item in enumerate(annotations.annotations):
        place = f"{path}: annotations[{index}]"
        if item.category_id not in names:
            raise LayoutError(f"{place}.category_id: {item.category_id} is none of the file's categories; mend it")
        if item.image_id not in images:
            raise LayoutError(f"{place}.image_id: {item.image_id} is none of the file's images; mend it")
        box = _unit_box(item, images[item.image_id])
        if item.iscrowd or box is None:
            left_out["crowds" if item.iscrowd else "boxes without an area in the image"] += 1
        else:
            objects[item.image_id].append((names[item.category_id], box))
    layouts = []
    for number, image in images.items():
        found = objects[number]
        if not found or len(found) > capacity:
            left_out[f"images with over {capacity} objects" if found else "images without objects"] += 1
        else:
            layouts.append(_layout(image, found, path))
    return layouts


def _validated(data: bytes, path: Path) -> _Set:
    try:
        return _Set.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        where = f"{place}: " if place else ""
        raise LayoutError(f"{path}: {where}{first['msg']}; mend it, or give layouts or COCO's annotations") from None


def _layout(image: _Image, found: Sequence[tuple[str, Box]], path: Path) -> Layout:
    name = Path(image.file_name.replace("\\", "/")).stem or str(image.id)
    counts: Counter[str] = Counter()
    objects = []
    for label, box in found:
        counts[label] += 1
        objects.append(LayoutObject(label, box, f"{label}-{counts[label]}"))
    return Layout(tuple(objects), name=name, source=f"{path} image {image.id}")


def _unit_box(item: _Annotation, image: _Image) -> Box | None:
    """The part of a box that lies in the image, in units of it; None where there is none."""
    x, y, width, height = item.bbox
    left, right = (min(max(edge / image.width, 0.0), 1.0) for edge in (x, x + width))
    top, bottom = (min(max(edge / image.height, 0.0), 1.0) for edge in (y, y + height))
    box = left, top, right - left, bottom - top
    return box if min(box[2:]) >= SMALLEST_SIDE else None
