"""JSON files of any size, read with no more in memory than what is needed of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError

Json = dict[str, Any]

_GZIP = b"\x1f\x8b"


def without(*keys: str) -> Callable[[Json], Json]:
    """Make a `slim` of `load_json` that leaves those members out."""

    def slim(item: Json) -> Json:
        for key in keys:
            item.pop(key, None)
        return item

    return slim


def load_json(path: Path, slim: Callable[[Json], Any] | None = None) -> Any:
    """Read the JSON value in a file, each of whose objects becomes `slim` of it as soon as it is parsed.

    So masks of a gigabyte are never in memory together. Raises DataError naming the file and the place, and OSError.
    """
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            raise DataError(f"{path}: compressed by gzip; rename it to {path.name}.gz, and gunzip that")
    try:
        return json.loads(path.read_bytes(), object_hook=slim)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: not JSON ({error.msg} at {where}); is the file complete?") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); is the file complete?") from None


def list_in(document: Any, key: str, path: Path) -> list[Any]:
    """The list that a file's JSON object has at `key`. Raises DataError."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise DataError(f'{path}: {key}: must be a list; the file is no COCO JSON {{"{key}": [...], ...}}')
    return value
