"""The paper's tables 1 to 8 as data: every row that it publishes, with the spreads that it states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lostgan_evaluate.grids import DASH, Grid

Better = Literal["higher", "lower"]

COCO, VG = "coco-stuff", "visual-genome"


@dataclass(frozen=True)
class Figure:
    """A number and, where the paper states it, its standard deviation. text: both as printed."""

    value: float
    spread: float | None
    text: str


@dataclass(frozen=True)
class PublishedRow:
    """One method on one data set. resolution_px: None where the paper states none. scores: by the paper's names, see
    `BETTER`; CAS, the APs and mask IoU are in percent."""

    table: int
    method: str
    resolution_px: int | None
    data: str
    scores: Mapping[str, Figure]

    @property
    def source(self) -> str:
        """The place in the paper."""
        return f"table {self.table}"


TITLES: Mapping[int, str] = {
    1: "Overall quality: Inception Score, FID and Diversity Score",
    2: "Objects: Classification Accuracy Score",
    3: "Layouts: average precision of a detector",
    4: "Masks: IoU with the nearest ground-truth mask",
    5: "Semi-supervised training",
    6: "GauGAN on the inferred masks, and SPADE end to end",
    7: "Components switched off one at a time",
    8: "Stages of mask refinement",
}
"""The subjects of the tables."""

BETTER: Mapping[str, Better] = {
    "IS": "higher",
    "FID": "lower",
    "DS": "higher",
    "CAS": "higher",
    "AP": "higher",
    "AP50": "higher",
    "AP75": "higher",
    "mask IoU": "higher",
}
"""The paper's scores and their good direction."""

_STANDS_FOR = {
    "is": "IS",
    "fid": "FID",
    "fd": "FID",
    "ds": "DS",
    "cas": "CAS",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "nearest_mask_iou": "mask IoU",
}


def stands_for(name: str) -> str | None:
    """The paper's score that one of ours stands for, of the same or of another network: "FID" for "fid" and for
    "fd_efficientnet_lite0". None for a score that the paper does not have."""
    return _STANDS_FOR.get(name) or _STANDS_FOR.get(name.partition("_")[0])


def of_the_papers_network(name: str) -> bool:
    """Whether one of our scores is measured with the network that the paper used: its numbers may stand in a column
    with the paper's, if the data are the same."""
    return name in _STANDS_FOR and name != "fd"


def published(table: int, data: str | None = None) -> tuple[PublishedRow, ...]:
    """The rows of a table, by default on both data sets."""
    return tuple(row for row in PUBLISHED if row.table == table and data in (None, row.data))


def published_figure(table: int, method: str, resolution_px: int | None, score: str) -> Figure | None:
    """A number of the paper on COCO-Stuff. None where it has none."""
    rows = (row for row in published(table, COCO) if (row.method, row.resolution_px) == (method, resolution_px))
    return next((row.scores.get(score) for row in rows), None)


_TABLES = {
    1: """
        method                   | px  | IS COCO      | IS VG        | FID COCO | FID VG | DS COCO     | DS VG
        Real images              | 64  | 16.30 ± 0.40 | 13.90 ± 0.50 | -        | -      | -           | -
        Real images              | 128 | 22.30 ± 0.50 | 20.50 ± 1.50 | -        | -      | -           | -
        Real images              | 256 | 28.10 ± 1.60 | 28.60 ± 1.20 | -        | -      | -           | -
        Real images              | 512 | 34.50 ± 1.70 | 34.20 ± 1.10 | -        | -      | -           | -
        pix2pix                  | 64  | 3.50 ± 0.10  | 2.70 ± 0.02  | 121.97   | 142.86 | 0           | 0
        sg2im (GT layout)        | 64  | 7.30 ± 0.10  | 6.30 ± 0.20  | 67.96    | 74.61  | 0.02 ± 0.01 | 0.15 ± 0.12
        Layout2Im                | 64  | 9.10 ± 0.10  | 8.10 ± 0.10  | 44.19    | 39.68  | 0.15 ± 0.06 | 0.17 ± 0.09
        Layout2Im + OWA          | 64  | 9.70 ± 0.10  | 8.00 ± 0.20  | 40.19    | 33.54  | 0.09 ± 0.05 | 0.09 ± 0.11
        LostGAN-V1               | 64  | 9.80 ± 0.20  | 8.70 ± 0.40  | 34.31    | 34.75  | 0.35 ± 0.09 | 0.34 ± 0.10
        Grid2Im (GT layout)      | 128 | 11.22 ± 0.15 | -            | 63.44    | -      | 0.28 ± 0.11 | -
        LostGAN-V1               | 128 | 13.80 ± 0.40 | 11.10 ± 0.60 | 29.65    | 29.36  | 0.40 ± 0.09 | 0.43 ± 0.09
        LostGAN-V2               | 128 | 14.21 ± 0.40 | 10.71 ± 0.26 | 24.76    | 29.00  | 0.45 ± 0.09 | 0.42 ± 0.09
        Grid2Im (GT layout)      | 256 | 15.23 ± 0.11 | -            | 65.95    | -      | 0.34 ± 0.13 | -
        LostGAN-V2               | 256 | 18.01 ± 0.50 | 14.10 ± 0.38 | 42.55    | 47.62  | 0.55 ± 0.09 | 0.53 ± 0.09
        LostGAN-V2               | 512 | 17.55 ± 0.23 | 14.42 ± 0.46 | 51.99    | 52.73  | 0.65 ± 0.11 | 0.61 ± 0.09
    """,
    2: """
        method      | px  | CAS COCO | CAS VG
        Layout2Im   | 64  | 27.32    | 23.25
        LostGAN-V1  | 64  | 28.81    | 27.50
        Grid2Im     | 128 | 25.89    | -
        LostGAN-V1  | 128 | 30.68    | 28.85
        LostGAN-V2  | 128 | 31.98    | 29.35
        Grid2Im     | 256 | 20.54    | -
        LostGAN-V2  | 256 | 30.33    | 28.81
        Real images | -   | 51.04    | 48.07
    """,
    3: """
        method      | px  | AP COCO | AP50 COCO | AP75 COCO
        Grid2Im     | 256 | 32.3    | 58.5      | 30.9
        LostGAN-V2  | 256 | 34.9    | 60.8      | 34.4
        Real images | -   | 44.7    | 69.5      | 47.5
    """,
    4: """
        method   | px  | mask IoU COCO
        person   | 256 | 53.8
        car      | 256 | 66.5
        plane    | 256 | 58.0
        bus      | 256 | 75.0
        train    | 256 | 70.8
        truck    | 256 | 66.1
        boat     | 256 | 63.1
        zebra    | 256 | 66.9
        hydrant  | 256 | 59.2
        pizza    | 256 | 77.7
        elephant | 256 | 62.3
        laptop   | 256 | 57.0
        bench    | 256 | 62.8
        mean     | 256 | 56.5
    """,
    5: """
        method                                | px  | IS COCO      | FID COCO | DS COCO
        (i) D1                                | 128 | 12.79 ± 0.27 | 32.77    | 0.46 ± 0.09
        (ii) D1+D2: detection(0.5)            | 128 | 13.41 ± 0.48 | 28.20    | 0.46 ± 0.09
        (iii) D1+D2: detection(0.5) + eqn. 15 | 128 | 13.90 ± 0.38 | 25.87    | 0.46 ± 0.09
        Fully supervised                      | 128 | 14.21 ± 0.40 | 24.76    | 0.45 ± 0.09
    """,
    6: """
        method                         | px  | IS COCO      | FID COCO | DS COCO
        GauGAN (w/ GT masks)           | 256 | -            | 22.6     | -
        GauGAN + our inferred masks    | 256 | 19.35 ± 0.73 | 41.11    | 0.38 ± 0.12
        LostGAN-V2                     | 256 | 18.01 ± 0.50 | 42.55    | 0.55 ± 0.09
        LostGAN-V2 + SPADE, end to end | 256 | 16.37 ± 0.34 | 46.08    | 0.50 ± 0.11
    """,
    7: """
        method                      | px  | IS COCO      | FID COCO | DS COCO
        w/o layout-to-mask in G     | 128 | 12.91 ± 0.23 | 28.51    | 0.45 ± 0.09
        w/o mask refinement in G    | 128 | 13.75 ± 0.49 | 26.11    | 0.46 ± 0.09
        w/o image head in D         | 128 | 13.85 ± 0.31 | 25.96    | 0.43 ± 0.10
        w/o object head in D        | 128 | 9.51 ± 0.22  | 57.06    | 0.55 ± 0.11
        Full LostGAN-V2             | 128 | 14.21 ± 0.40 | 24.76    | 0.45 ± 0.09
    """,
    8: """
        method    | px  | IS COCO      | FID COCO
        m0        | 256 | 16.68 ± 0.42 | 48.54
        m0 + m1   | 256 | 14.14 ± 0.33 | 63.96
        m0 ... m2 | 256 | 17.10 ± 0.56 | 48.94
        m0 ... m3 | 256 | 17.46 ± 0.34 | 44.38
        m0 ... m4 | 256 | 17.51 ± 0.41 | 42.49
        m0 ... m5 | 256 | 18.01 ± 0.50 | 42.55
    """,
}


def _rows(table: int, text: str) -> Iterator[PublishedRow]:
    lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    heads = [head.rsplit(" ", 1) for head in lines[0][2:]]
    for method, side_px, *cells in lines[1:]:
        for data, short in ((COCO, "COCO"), (VG, "VG")):
            figures = {
                score: _figure(cell)
                for (score, of), cell in zip(heads, cells, strict=True)
                if of == short and cell != "-"
            }
            if figures:
                yield PublishedRow(table, method, None if side_px == "-" else int(side_px), data, figures)


def _figure(cell: str) -> Figure:
    value, _, spread = cell.partition(" ± ")
    return Figure(float(value), float(spread) if spread else None, cell)


PUBLISHED = tuple(row for table, text in _TABLES.items() for row in _rows(table, text))
"""All rows of the eight tables, those on COCO-Stuff and on Visual Genome apart."""

_DATA = {COCO: "COCO-Stuff", VG: "Visual Genome"}


def published_grid(table: int, data: str | None = None) -> Grid:
    """A table of the paper, to look at. data: one of its data sets; None for both."""
    rows = published(table, data)
    scores = list(dict.fromkeys(score for row in rows for score in row.scores))
    return Grid(
        f"Published, table {table}: {TITLES[table]}",
        ("method", "px", "data", *scores),
        tuple(_cells(row, scores) for row in rows),
        "The paper's numbers: its data, its networks (Inception, AlexNet, ResNet-101, Faster R-CNN) and its budget. "
        "CAS, APs and mask IoU are in percent.",
    )


def _cells(row: PublishedRow, scores: list[str]) -> tuple[str, ...]:
    figures = [row.scores.get(score) for score in scores]
    side = DASH if row.resolution_px is None else str(row.resolution_px)
    numbers = [DASH if figure is None else figure.text for figure in figures]
    return (row.method, side, _DATA[row.data], *numbers)
