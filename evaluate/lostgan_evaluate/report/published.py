"""The paper's tables as grids."""

from __future__ import annotations

from lostgan_evaluate.published import COCO, TITLES, PublishedRow, published
from lostgan_evaluate.report.grids import DASH, Grid, shown

_DATA = {COCO: "COCO-Stuff"}


def published_grid(table: int, data: str | None = None) -> Grid:
    """A table of the paper. data: one of its data sets; None for both."""
    rows = published(table, data)
    scores = list(dict.fromkeys(score for row in rows for score in row.scores))
    return Grid(
        f"Published: table {table}, {TITLES[table][0].lower()}{TITLES[table][1:]}",
        ("method", "px", "data", *scores),
        tuple(_cells(row, scores) for row in rows),
        "The paper's numbers: its data, its networks (Inception, AlexNet, ResNet-101, Faster R-CNN) and its budget.",
    )


def _cells(row: PublishedRow, scores: list[str]) -> tuple[str, ...]:
    figures = [row.scores.get(score) for score in scores]
    side = DASH if row.resolution_px is None else str(row.resolution_px)
    numbers = [DASH if figure is None else shown(figure.value, figure.spread) for figure in figures]
    return (row.method, side, _DATA.get(row.data, "Visual Genome"), *numbers)
