"""layout.json: what a person drew, validated.

{"canvas": [640, 480], "seed": 7, "truncation": 2.0,
 "objects": [{"label": "sky", "box": [0, 0, 640, 250]},
             {"label": "sea", "box": [0, 240, 640, 240], "style": {"from": 3, "to": 9, "mix": 0.4}},
             {"label": "person", "box": [250, 140, 120, 300], "id": "rider", "seed": 12}]}
"""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lostgan_serve.contract import MAX_SLOTS
from lostgan_serve.errors import InputError, LayoutError
from lostgan_serve.files import read_file
from lostgan_serve.layout_schema import FIXES, Drawn, DrawnCode, DrawnMix, MixPath, explain, shorten
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

Box = tuple[float, float, float, float]

_EDGE_TOLERANCE = 1e-4
"""By how much of the canvas a box may stick out: what rounding a box to pixels or to four digits leaves."""

SMALLEST_SIDE = 4e-4
"""The shortest side of a box, in units of the canvas: far below a pixel of any model."""

MAX_FILE_BYTES = 512 << 20
"""The most bytes of a file of layouts."""

_LAYOUT, _LIST = "layout", "list of layouts"
MAX_CHARACTERS = {_LAYOUT: 4 << 20, _LIST: 32 << 20}
"""The most characters of a JSON value. A layout of 254 objects with codes, indented, has a million and a half."""

MAX_BRACKETS = {_LAYOUT: 10_000, _LIST: 1_000_000}
"""The most brackets that a JSON value opens. A layout of 254 objects with codes opens a thousand. Python takes 20 s for
the 8 million empty lists that 32 MB hold."""


@dataclass(frozen=True)
class Mix:
    """A style between those of two seeds. share: of the second, in [0, 1]."""

    start: int
    end: int
    share: float
    path: MixPath = "linear"

    def to_json(self) -> dict[str, Any]:
        """The value of `style` in layout.json."""
        way = {} if self.path == "linear" else {"path": self.path}
        return {"from": self.start, "to": self.end, "mix": self.share, **way}


@dataclass(frozen=True)
class Code:
    """A style given by its elements, of which there are `contract.Z_DIM`. Truncation does not touch it."""

    values: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of `style` in layout.json."""
        return {"code": list(self.values)}


@dataclass(frozen=True)
class LayoutObject:
    """One drawn object. box: x, y, width, height in [0, 1], origin top left. seed, style: of its own, at most one of
    them; None for the layout's."""

    label: str
    box: Box
    id: str
    seed: int | None = None
    style: Mix | Code | None = None


@dataclass(frozen=True)
class Layout:
    """A validated layout. name: what files made from it are called. source: where it came from, for messages. style: a
    mix that all styles are of in place of `seed`."""

    objects: tuple[LayoutObject, ...]
    seed: int = 0
    truncation: float = 2.0
    name: str = "layout"
    source: str = "layout"
    style: Mix | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Layout:
        """Read a file that holds one layout. Raises LayoutError naming the file, the field and the fix."""
        layouts = load_layouts(path)
        if len(layouts) != 1:
            raise LayoutError(f"{path}: holds {len(layouts)} layouts; load_layouts reads them all")
        return layouts[0]

    @classmethod
    def parse(cls, value: Any, name: str = "layout", source: str | None = None) -> Layout:
        """Validate one layout given as a JSON value, see docs/layouts-and-styles.md. Raises LayoutError."""
        source = source or name
        try:
            drawn = Drawn.model_validate(value)
        except ValidationError as error:
            raise LayoutError(f"{source}: {explain(error)}") from None
        return cls(
            objects=_name_objects(drawn, source),
            seed=drawn.seed,
            truncation=drawn.truncation,
            style=_mix(drawn.style),
            name=name,
            source=source,
        )

    def to_json(self) -> dict[str, Any]:
        """The layout as the JSON value that `parse` takes: boxes in [0, 1], and an id for each object."""
        objects = []
        for item in self.objects:
            own: dict[str, Any] = {} if item.seed is None else {"seed": item.seed}
            own |= {} if item.style is None else {"style": item.style.to_json()}
            objects.append({"label": item.label, "box": list(item.box), "id": item.id, **own})
        style: dict[str, Any] = {"seed": self.seed} if self.style is None else {"style": self.style.to_json()}
        return {**style, "truncation": self.truncation, "objects": objects}


def load_layouts(path: str | os.PathLike[str]) -> list[Layout]:
    """Read a file of layouts, see `parse_layouts`. Raises LayoutError."""
    path = Path(path)
    try:
        data = read_file(path, MAX_FILE_BYTES)
    except ValueError as error:  # NUL in the path
        raise LayoutError(f"{path}: cannot be read ({error}); give the path of a layout.json") from None
    except InputError as error:
        raise LayoutError(_unreadable(path, error)) from None
    return parse_layouts(data, path.stem, str(path))


def _unreadable(path: Path, error: InputError) -> str:
    """Say why a file of layouts cannot be read, and what to give in its place."""
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return f"{path}: no such file; give the path of a layout.json"
    if isinstance(cause, IsADirectoryError):
        return f"{path}: is a folder; name the layout files in it, such as {path}/*.json"
    if isinstance(cause, OSError):
        return f"{path}: cannot be read ({cause.strerror}); give the path of a layout.json"
    return f"{error}; give several files"


def parse_layouts(data: bytes, name: str, source: str) -> list[Layout]:
    """The layouts in a text in UTF-8: one, a JSON list of them, or JSON lines. Raises LayoutError.

    name: of a single layout; of several, each gets a number behind it.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{source}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    values: Iterable[tuple[str, Any]]
    if _is_json_lines(text):
        lines = text.split("\n")
        count = sum(1 for line in lines if line.strip())
        places = ((f"{source} line {n}", line) for n, line in enumerate(lines, 1) if line.strip())
        values = ((where, _decode(line, where)) for where, line in places)
    elif isinstance(value := _decode(text, source), list):
        count, values = len(value), ((f"{source} layout {n}", one) for n, one in enumerate(value, 1))
    else:
        count, values = 1, [(source, value)]
    if not count:
        raise LayoutError(f"{source}: holds no layout; {FIXES['layout']}")
    width = len(str(count))
    names = (f"{name}-{n:0{width}}" if count > 1 else name for n in range(1, count + 1))
    return [Layout.parse(one, own, where) for (where, one), own in zip(values, names, strict=True)]


def _is_json_lines(text: str) -> bool:
    """Whether the first of several lines is an object by itself; of one JSON value it would be an opening bracket."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and not _oversize(first) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _oversize(text: str) -> str | None:
    """Say by how much a JSON value is larger than any layout, or list of them, that there is use for; None where it is
    not."""
    kind = _LIST if text.lstrip()[:1] == "[" else _LAYOUT
    fix = (
        f"a layout has {MAX_SLOTS} objects at most" if kind == _LAYOUT else "write layouts one a line, as `jq -c '.[]'`"
    )
    for what, count, most in (
        ("characters", len(text), MAX_CHARACTERS[kind]),
        ("brackets", text.count("[") + text.count("{"), MAX_BRACKETS[kind]),
    ):
        if count > most:
            return f"{count:,} {what} in one {kind}, and the most is {most:,}; {fix}"
    return None


def _decode(text: str, source: str) -> Any:
    if reason := _oversize(text):
        raise LayoutError(f"{source}: {reason}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        several = error.msg == "Extra data" and text[error.pos :].lstrip()[:1] == "{"
        fix = "several layouts stand one a line, as `jq -c .` prints them" if several else "mend the file there"
        raise LayoutError(f"{source}: not JSON ({error.msg} at {where}); {fix}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets as deep
        raise LayoutError(f"{source}: not a layout ({error}); {FIXES['layout']}") from None


def _name_objects(drawn: Drawn, source: str) -> tuple[LayoutObject, ...]:
    """Boxes in units of the canvas, and the id and seed that an object has unless it states its own."""
    objects, seen = [], Counter[str]()
    for index, item in enumerate(drawn.objects):
        seen[item.label] += 1
        name = item.id or f"{item.label}-{seen[item.label]}"
        box = _unit_box(item.box, drawn.canvas, f"{source}: objects[{index}].box ({shorten(item.label)})")
        objects.append(LayoutObject(item.label, box, name, item.seed, _style(item.style)))
    counts = Counter(o.id for o in objects)
    for index, name in enumerate(o.id for o in objects):
        if counts[name] > 1:
            where = f"{source}: objects[{index}].id {reprlib.repr(name)}"
            raise LayoutError(f"{where} stands {counts[name]} times; ids must differ")
        if name == IMAGE_LABEL_NAME:
            raise LayoutError(f"{source}: objects[{index}].id {name!r} is taken by the background; choose another")
    return tuple(objects)


def _style(drawn: DrawnMix | DrawnCode | None) -> Mix | Code | None:
    return Code(tuple(drawn.code)) if isinstance(drawn, DrawnCode) else _mix(drawn)


def _mix(drawn: DrawnMix | None) -> Mix | None:
    return None if drawn is None else Mix(drawn.start, drawn.to, drawn.mix, drawn.path)


def _unit_box(box: Box, canvas: tuple[float, float] | None, where: str) -> Box:
    width, height = canvas or (1.0, 1.0)
    x, y, w, h = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    if min(w, h) < SMALLEST_SIDE:
        raise LayoutError(
            f"{where}: {_numbers(box)} has no area; its sides must be over {SMALLEST_SIDE:g} of the canvas"
        )
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, 1.0), min(y + h, 1.0)
    outside = max(left - x, top - y, x + w - right, y + h - bottom)
    if outside > _EDGE_TOLERANCE or min(right - left, bottom - top) < SMALLEST_SIDE / 2:
        fix = _edge_fix(canvas, (left, top, right, bottom))
        raise LayoutError(f"{where}: {_numbers(box)} lies outside the canvas; {fix}")
    return left, top, right - left, bottom - top


def _edge_fix(canvas: tuple[float, float] | None, clipped: tuple[float, float, float, float]) -> str:
    left, top, right, bottom = clipped
    width, height = canvas or (1.0, 1.0)
    if right > left and bottom > top:
        inside = (left * width, top * height, (right - left) * width, (bottom - top) * height)
        fix = f"the part inside is {_numbers(inside)}"
    else:
        fix = f"the canvas is {width:g} x {height:g}"
    return fix if canvas else f"{fix}; give `canvas` [width, height] if the boxes are in pixels"


def _numbers(box: Box) -> str:
    return f"[{', '.join(f'{n:g}' for n in box)}]"
