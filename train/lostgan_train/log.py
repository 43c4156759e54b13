"""The log of a run: a line of JSON for each step, with its losses and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lostgan_serve.files import parse_json

Row = dict[str, float]
"""The figures of a step: "step", counted from 1, "skipped", and losses and others by name."""


def line_of(row: Row) -> str:
    """The line of a step."""
    return json.dumps(row) + "\n"


def read_log(file: Path, last: int | None = None) -> Iterator[Row]:
    """The rows of a log up to step `last`, without what a kill or a loss of power left of others. Raises OSError."""
    for line in file.read_bytes().splitlines():
        try:
            row = parse_json(line)
        except ValueError:  # cut off, NULs in place of what was written last, bytes that are no UTF-8
            continue
        if _is_row(row) and (last is None or row["step"] <= last):
            yield row


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and "step" in row and all(isinstance(value, int | float) for value in row.values())
