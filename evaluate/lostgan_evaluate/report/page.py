"""The report: one page that needs nothing else, and the same tables in Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lostgan_evaluate.grids import Grid
from lostgan_evaluate.report import comparison
from lostgan_evaluate.report.charts import label_charts, score_charts
from lostgan_evaluate.report.pictures import Picture, embedded, samples_of, sheets_of
from lostgan_evaluate.report.runs import Run, Table, read_files
from lostgan_serve import __version__

_TITLE = "Evaluation of layout-to-image generation"


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    runs: tuple[Run, ...]
    tables: tuple[Table, ...]


def read_report(files: Sequence[Path]) -> Report:
    """Read the files of a report, see `runs.read_files`. Raises InputError."""
    runs, tables = read_files(files)
    return Report(tuple(runs), tuple(tables))


def html(report: Report) -> str:
    """The report as a page without scripts and without anything that a network would have to bring."""
    runs = report.runs
    sheets = sheets_of(runs)
    samples = {run.name: samples_of(run) for run in runs}
    uris = embedded(_together(sheets.values()), _together(samples.values()))
    environment = Environment(
        loader=PackageLoader("lostgan_evaluate", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template("report.html.j2")
        .render(
            title=_TITLE,
            version=__version__,
            tables=report.tables,
            grids=_grids(runs),
            notes=comparison.comparability(runs),
            published=comparison.published_grids(runs),
            all_facts=comparison.all_facts_grid(runs),
            charts=[chart for chart in (*score_charts(runs), *label_charts(runs)) if chart.groups],
            samples=samples,
            sheets=sheets,
            uris=uris,
        )
        .lstrip()
    )


def markdown(report: Report, folder: Path) -> str:
    """The report in Markdown. folder: where it will stand, since it names pictures by their paths from there."""
    parts = [f"# {_TITLE}"]
    for table in report.tables:
        parts += [f"## {table.title}", *(grid.markdown(3) for grid in table.grids)]
        parts += [f"- {name}: {reason}" for name, reason in table.missing.items()]
    parts += [grid.markdown() for grid in _grids(report.runs)]
    if notes := comparison.comparability(report.runs):
        parts += ["## Beside the paper", *notes]
        parts += [grid.markdown(3) for grid in comparison.published_grids(report.runs)]
    for heading, pictures in sheets_of(report.runs).items():
        parts += [f"## {heading}", *(_link(picture, folder) for picture in pictures if picture.file.is_file())]
    return "\n\n".join(parts) + "\n"


def _grids(runs: Sequence[Run]) -> list[Grid]:
    """The tables of runs that have something to say."""
    grids = [comparison.facts_grid(runs), comparison.scores_grid(runs)] if runs else []
    grids += [comparison.differences_grid(runs)] if len(runs) > 1 else []
    return grids + [grid for grid in [comparison.left_out_grid(runs)] if grid.rows]


def _together(lists: Iterable[list[Picture]]) -> list[Picture]:
    return [picture for pictures in lists for picture in pictures]


def _link(picture: Picture, folder: Path) -> str:
    path = Path(os.path.relpath(picture.file, folder)).as_posix()
    return f"{picture.run}:\n\n![{picture.name}](<{path}>)"
