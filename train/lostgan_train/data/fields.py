"""Checks of single fields: members, numbers, ids, names and boxes of JSON objects, as tools of many kinds write them.

Numbers may be given as text, since tables become JSON that way: "640", "17", "0".
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lostgan_serve.layout import Box
from lostgan_serve.vocabulary import is_printable

Id = int | str

_LONGEST_ID = 18
"""Digits of the longest text that is read as a number."""

_NO, _YES = ("", "false", "no"), ("true", "yes")


class Problem(Exception):  # noqa: N818 - caught where its place in the file is known; a user never meets one
    """Something wrong with one image or object. key: the field. kind: the words that the summary counts it under."""

    def __init__(self, key: str, kind: str, detail: str) -> None:
        super().__init__(f"{kind} ({detail})")
        self.key, self.kind, self.detail = key, kind, detail


def member(item: Any, key: str, kind: Any, example: str) -> Any:
    """A member of a JSON object. kind: what `isinstance` takes. Raises Problem where it is missing or of another."""
    if not isinstance(item, dict) or key not in item:
        raise Problem(key, f"{key} missing", f"such as {example}")
    value = item[key]
    if not isinstance(value, kind):
        raise _wrong_type(key, value, example)
    return value


def _wrong_type(key: str, value: Any, example: str) -> Problem:
    return Problem(key, f"{key} of a wrong type", f"such as {example}, not {_short(json.dumps(value))}")


def as_number(value: Any) -> float | None:
    """A number, or a text that holds one, where it is finite; None for everything else."""
    if isinstance(value, float):  # first, since it is the usual case, of millions
        return value if math.isfinite(value) else None
    try:
        number = float(value) if isinstance(value, int | str) else math.nan
    except (ValueError, OverflowError):  # JSON's integers have no bounds
        return None
    return number if math.isfinite(number) else None


def number(item: Any, key: str, example: str, above: float = -math.inf) -> float:
    """A finite number over `above`. Raises Problem."""
    stated = member(item, key, int | float | str, example)
    value = as_number(stated)
    if value is None and isinstance(stated, str):
        raise _wrong_type(key, stated, example)
    if value is None or value <= above:
        raise Problem(key, f"{key} impossible", f"such as {example}, not {_short(str(stated))}")
    return value


def flag(item: Any, key: str) -> bool:
    """Whether a flag is set, which may be missing: 0, "0", false, "false" or null are not. Raises Problem."""
    value = item.get(key)
    if isinstance(value, str):
        text = value.strip().lower()
        value = False if text in _NO else True if text in _YES else as_number(text)
        if value is None:
            raise _wrong_type(key, item[key], "0 or 1")
    return bool(value)


def as_id(value: Any) -> Id | None:
    """An id, where "17" and 17.0 are 17 as in 17; "0017" and other texts stay as they are. None where it is no id."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        number = value.isascii() and value.isdecimal() and len(value) <= _LONGEST_ID and str(int(value)) == value
        return int(value) if number else value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def id_in(item: Any, key: str) -> Id:
    """The id at `key`. Raises Problem."""
    value = as_id(member(item, key, object, "17"))
    if value is None:
        raise _wrong_type(key, item[key], "17")
    return value


def whole_id(item: Any, key: str) -> int:
    """The id at `key`, which must be a whole number. Raises Problem."""
    value = id_in(item, key)
    if not isinstance(value, int):
        raise _wrong_type(key, value, "17")
    return value


def label_in(item: Any, key: str) -> str:
    """A label on one line: line breaks and other spaces in a row become one space. Raises Problem for none, and for
    one that cannot be printed."""
    stated = member(item, key, str, '"cat"')
    label = " ".join(stated.split())
    if not label or not is_printable(label):
        raise Problem(key, f"{key} that cannot be a label", f"{_short(repr(stated))}; rename it")
    return label


def box_in(item: Any, key: str) -> Box:
    """The four numbers at `key`: x, y, width and height in pixels. Raises Problem."""
    stated = member(item, key, list, "[x, y, width, height]")
    if len(stated) == 4:
        x, y, width, height = map(as_number, stated)
        if x is not None and y is not None and width is not None and height is not None:
            return x, y, width, height
    raise Problem(key, f"{key} impossible", f"a box is four finite numbers, not {str(stated)[:60]}")


def unit_box(box: Sequence[float], width: float, height: float, overhang: float, key: str = "bbox") -> Box:
    """[x, y, width, height] in pixels of an image of `width` x `height` as shares of it, clipped at its edges.

    overhang: the most that may be clipped off, as a share of the image's side; a pixel always may. Raises Problem.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise Problem(key, "box without area", f"{_shown(box)}")
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    over_x, over_y = max(left - x, x + w - right), max(top - y, y + h - bottom)
    gone = right - left < min(w, 1) / 2 or bottom - top < min(h, 1) / 2
    if gone or over_x > max(1, overhang * width) or over_y > max(1, overhang * height):
        raise Problem(key, "box outside the image", f"{_shown(box)} on {width:g} x {height:g} px")
    return left / width, top / height, (right - left) / width, (bottom - top) / height


def _shown(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.10g}' for value in box)}]"


def shown(value: object) -> str:
    """A value as Python writes it, for a message, which stays a line whatever stands in a file."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
