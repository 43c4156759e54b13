"""layout.json: what a person drew, validated.

{"canvas": [640, 480], "seed": 7, "truncation": 2.0,
 "objects": [{"label": "sky", "box": [0, 0, 640, 250]},
             {"label": "person", "box": [250, 140, 120, 300], "id": "rider", "seed": 12}]}
"""

from __future__ import annotations

import difflib
import json
import math
import os
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lostgan_serve.choices import MAX_SEED
from lostgan_serve.errors import LayoutError
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

Box = tuple[float, float, float, float]

MAX_TRUNCATION = 8.0
"""Beyond this, truncation changes nothing: one normal in 10^15 is larger."""
MIN_TRUNCATION = 0.05
"""Below this, codes would have to be redrawn too often."""

_EDGE_TOLERANCE = 1e-4
"""By how much of the canvas a box may stick out: what rounding a box to pixels or to four digits leaves."""

_SMALLEST_SIDE = 4e-4
"""The shortest side of a box, in units of the canvas: far below a pixel of any model."""


@dataclass(frozen=True)
class LayoutObject:
    """One drawn object. box: x, y, width, height in [0, 1], origin top left. seed: of its style code; None for the
    layout's."""

    label: str
    box: Box
    id: str
    seed: int | None = None


@dataclass(frozen=True)
class Layout:
    """A validated layout. name: what files made from it are called. source: where it came from, for messages."""

    objects: tuple[LayoutObject, ...]
    seed: int = 0
    truncation: float = 2.0
    name: str = "layout"
    source: str = "layout"

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
            drawn = _Drawn.model_validate(value)
        except ValidationError as error:
            raise LayoutError(f"{source}: {_explain(error)}") from None
        return cls(
            objects=_name_objects(drawn, source),
            seed=drawn.seed,
            truncation=drawn.truncation,
            name=name,
            source=source,
        )

    def to_json(self) -> dict[str, Any]:
        """The layout as the JSON value that `parse` takes: boxes in [0, 1], and an id for each object."""
        objects = []
        for item in self.objects:
            own = {} if item.seed is None else {"seed": item.seed}
            objects.append({"label": item.label, "box": list(item.box), "id": item.id, **own})
        return {"seed": self.seed, "truncation": self.truncation, "objects": objects}


def load_layouts(path: str | os.PathLike[str]) -> list[Layout]:
    """Read a file of layouts, see `parse_layouts`. Raises LayoutError."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LayoutError(f"{path}: no such file; give the path of a layout.json") from None
    except IsADirectoryError:
        raise LayoutError(f"{path}: is a folder; name the layout files in it, such as {path}/*.json") from None
    except (OSError, ValueError) as error:  # a ValueError: NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise LayoutError(f"{path}: cannot be read ({reason}); give the path of a layout.json") from None
    return parse_layouts(data, path.stem, str(path))


def parse_layouts(data: bytes, name: str, source: str) -> list[Layout]:
    """The layouts in a text in UTF-8: one, a JSON list of them, or JSON lines. Raises LayoutError.

    name: of a single layout; of several, each gets a number behind it.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{source}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    if _is_json_lines(text):
        places = [(f"{source} line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        values = [(where, _decode(line, where)) for where, line in places]
    else:
        value = _decode(text, source)
        listed = isinstance(value, list)
        values = [(f"{source} layout {n}", v) for n, v in enumerate(value, 1)] if listed else [(source, value)]
    if not values:
        raise LayoutError(f"{source}: holds no layout; {_FIXES['layout']}")
    width = len(str(len(values)))
    names = [f"{name}-{n:0{width}}" for n in range(1, len(values) + 1)] if len(values) > 1 else [name]
    return [Layout.parse(value, own, where) for (where, value), own in zip(values, names, strict=True)]


def _is_json_lines(text: str) -> bool:
    """Whether the first of several lines is an object by itself; of one JSON value it would be an opening bracket."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _decode(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        several = error.msg == "Extra data" and text[error.pos :].lstrip()[:1] == "{"
        fix = "several layouts stand one a line, as `jq -c .` prints them" if several else "mend the file there"
        raise LayoutError(f"{source}: not JSON ({error.msg} at {where}); {fix}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets as deep
        raise LayoutError(f"{source}: not a layout ({error}); {_FIXES['layout']}") from None


def _without_controls(text: str) -> str:
    """Refuse characters that no file, terminal or hash of a style code can hold. Raises ValueError."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("holds a control character or half of a character")
    return text


Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]


Text = Annotated[str, Field(min_length=1, max_length=200, strict=True), AfterValidator(_without_controls)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _DrawnObject(_Strict):
    label: Text
    box: tuple[Finite, Finite, Finite, Finite]
    id: Text | None = None
    seed: Seed | None = None


class _Drawn(_Strict):
    objects: Annotated[list[_DrawnObject], Field(min_length=1)]
    canvas: tuple[Annotated[Finite, Field(gt=0)], Annotated[Finite, Field(gt=0)]] | None = None
    seed: Seed = 0
    truncation: Annotated[Finite, Field(ge=MIN_TRUNCATION, le=MAX_TRUNCATION)] = 2.0


def _name_objects(drawn: _Drawn, source: str) -> tuple[LayoutObject, ...]:
    """Boxes in units of the canvas, and the id and seed that an object has unless it states its own."""
    objects, seen = [], Counter[str]()
    for index, item in enumerate(drawn.objects):
        seen[item.label] += 1
        name = item.id or f"{item.label}-{seen[item.label]}"
        box = _unit_box(item.box, drawn.canvas, f"{source}: objects[{index}].box ({_shorten(item.label)})")
        objects.append(LayoutObject(item.label, box, name, item.seed))
    counts = Counter(o.id for o in objects)
    for index, name in enumerate(o.id for o in objects):
        if counts[name] > 1:
            where = f"{source}: objects[{index}].id {reprlib.repr(name)}"
            raise LayoutError(f"{where} stands {counts[name]} times; ids must differ")
        if name == IMAGE_LABEL_NAME:
            raise LayoutError(f"{source}: objects[{index}].id {name!r} is taken by the background; choose another")
    return tuple(objects)


def _unit_box(box: Box, canvas: tuple[float, float] | None, where: str) -> Box:
    width, height = canvas or (1.0, 1.0)
    x, y, w, h = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    if min(w, h) < _SMALLEST_SIDE:
        raise LayoutError(
            f"{where}: {_numbers(box)} has no area; its sides must be over {_SMALLEST_SIDE:g} of the canvas"
        )
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, 1.0), min(y + h, 1.0)
    outside = max(left - x, top - y, x + w - right, y + h - bottom)
    if outside > _EDGE_TOLERANCE or min(right - left, bottom - top) < _SMALLEST_SIDE / 2:
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


def _explain(error: ValidationError) -> str:
    """The first thing wrong as `field: what is wrong; the fix`."""
    first = error.errors()[0]
    path = ""
    for part in first["loc"]:
        name = part if str(part).isidentifier() and len(str(part)) <= 40 else _shorten(part)
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else str(name)
    path = path or "the layout"
    if first["type"] == "extra_forbidden":
        model = _DrawnObject if len(first["loc"]) > 1 else _Drawn
        near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(model.model_fields)}"
        return f"{path}: unknown field; {hint}"
    fix = _FIXES.get(next((part for part in reversed(first["loc"]) if isinstance(part, str)), "layout"))
    if first["type"] == "missing":
        return f"{path}: missing; {fix}"
    if first["type"] == "model_type":
        return f"{path}: input should be an object, not {_shorten(first['input'])}; {fix}"
    given = "" if isinstance(first["input"], Mapping | list) else f", not {_shorten(first['input'])}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}{given}; {fix}"


_FIXES = {
    "layout": 'a layout is {"objects": [{"label": ..., "box": [x, y, width, height]}, ...]}',
    "objects": 'give at least one {"label": ..., "box": [x, y, width, height]}',
    "box": "a box is four finite numbers [x, y, width, height]",
    "canvas": "canvas is [width, height] in pixels",
    "label": 'a label is a text such as "sky"; `lostgan-serve labels` lists them',
    "id": "an id is a text that no other object has",
    "seed": f"a seed is a whole number from 0 to {MAX_SEED}",
    "truncation": f"truncation is a number from {MIN_TRUNCATION} to {MAX_TRUNCATION:g}",
}


def _shorten(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
