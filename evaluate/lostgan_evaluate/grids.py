"""Tables of text, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DASH = "-"
"""The text of a cell that has no number."""


@dataclass(frozen=True)
class Grid:
    """A table. heads: of the columns. rows: cells, each row with as many as `heads`; the first names the row. note: a
    sentence below it."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self, level: int = 2) -> str:
        """The table in Markdown, below its title. level: of that heading."""
        lines = [_line(self.heads), _line(["---"] * len(self.heads)), *map(_line, self.rows)]
        parts = [f"{'#' * level} {self.title}", "\n".join(lines), self.note]
        return "\n\n".join(part for part in parts if part)


def shown(value: float | None, spread: float | None = None) -> str:
    """A number in four digits, and its standard deviation in two."""
    if value is None:
        return DASH
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"
