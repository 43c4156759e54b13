"""The command `report`. Importing this module must stay cheap: libraries are imported inside the command."""

from __future__ import annotations

from pathlib import Path

import click

from lostgan_serve.errors import require

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better


@click.command()
@click.argument("results", nargs=-1, required=True, type=_Path)
@click.option("--out", required=True, type=_Path, metavar="FILE", help="Page to write (.html).")
@click.option("--markdown", "markdown_file", type=_Path, metavar="FILE", help="The same tables in Markdown (.md).")
def report(results: tuple[Path, ...], out: Path, markdown_file: Path | None) -> None:
    """Make one page of evaluations, side by side and beside the paper's numbers.

    RESULTS are evaluation.json files of `evaluate` and table.json files of `experiment`. The page holds its pictures
    and needs no network.
    """
    for package in ("jinja2", "scipy", "torch"):
        require(package, "evaluate")
    from lostgan_evaluate.report.page import html, markdown, read_report
    from lostgan_serve.files import write_file

    content = read_report(results)
    write_file(out, html(content).encode())
    click.echo(f"{click.format_filename(out)}: evaluations: {len(content.runs)}, tables: {len(content.tables)}")
    if markdown_file is not None:
        write_file(markdown_file, markdown(content, markdown_file.parent).encode())
        click.echo(click.format_filename(markdown_file))
