"""The commands `styles`, `morph` and `compare`: figures of one or two layouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lostgan_serve.choices import MAX_SEED
from lostgan_serve.commands.inference import model_options, out_option, read_layout, seed_option
from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.errors import LayoutError

if TYPE_CHECKING:
    from lostgan_serve.layout_schema import MixPath
    from lostgan_serve.progress import Progress
    from lostgan_serve.runners import Runner

_MAX_SAMPLES = 256  # pictures of a sheet
_MAX_STEPS = 64

_styles = grouped("Styles")
_seed = click.IntRange(0, MAX_SEED)


@click.command(cls=GroupedCommand)
@click.argument("layout", type=click.Path())
@_styles(
    "--samples",
    default=16,
    show_default=True,
    type=click.IntRange(1, _MAX_SAMPLES),
    help="Number of styles to show.",
)
@seed_option
@out_option
@model_options
def styles(layout: str, samples: int, seed: int | None, out: Path, model: str, runner: str) -> None:
    """Show a layout in many styles, on one sheet: OUT/NAME.styles.png.

    LAYOUT is a file with one layout; - reads standard input. Every image has its seed above it.

    \b
    Example:  lostgan-serve styles layout.json --samples 16
    """
    from lostgan_serve.figure_files import write_styles

    drawn = read_layout(layout)
    with _opened(model, runner, out) as (opened, progress):
        path = write_styles(drawn, samples, opened, out, seed=seed, progress=progress)
    _tell(path)


@click.command(cls=GroupedCommand)
@click.argument("layout", type=click.Path())
@_styles("--object", "object_id", metavar="ID", help="Object to restyle.  [default: the whole picture]")
@_styles("--to-seed", type=_seed, help="Seed of the style at the end.  [default: the one after that at the beginning]")
@_styles(
    "--steps",
    default=6,
    show_default=True,
    type=click.IntRange(2, _MAX_STEPS),
    help="Number of images, both ends included.",
)
@_styles(
    "--path",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "spherical"]),
    help="Way between the two style codes: straight, as in the paper's figure 12, or turning evenly.",
)
@out_option
@model_options
def morph(
    layout: str,
    object_id: str | None,
    to_seed: int | None,
    steps: int,
    path: MixPath,
    out: Path,
    model: str,
    runner: str,
) -> None:
    """Show a layout on the way from its style to another, as a strip and as an animation.

    LAYOUT is a file with one layout; - reads standard input. Writes OUT/NAME.morph.png, the images and object maps in
    a row, and OUT/NAME.morph.webp, which goes there and back without an end. Objects with a seed or style of their own
    keep it where the whole picture is restyled.

    \b
    Example:  lostgan-serve morph layout.json --object rider --to-seed 9 --steps 6
    """
    from lostgan_serve.figure_files import write_morph

    drawn = read_layout(layout)
    with _opened(model, runner, out) as (opened, progress):
        paths = write_morph(
            drawn, opened, out, object_id=object_id, to_seed=to_seed, steps=steps, path=path, progress=progress
        )
    _tell(*paths)


@click.command(cls=GroupedCommand)
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@_styles("--seed", type=_seed, help="Seed of both layouts, in place of their own. Objects with a seed keep it.")
@out_option
@model_options
def compare(before: str, after: str, seed: int | None, out: Path, model: str, runner: str) -> None:
    """Compare two layouts and their pictures, and tell what has changed: OUT/BEFORE-AFTER.compare.png.

    BEFORE and AFTER are files with one layout each; - reads standard input. Objects of the same id are the same object.
    The heat map shows by how much the images differ, and where the boxes are that changed.

    \b
    Example:  lostgan-serve compare before.json after.json
    """
    from lostgan_serve.figure_files import write_comparison
    from lostgan_serve.samples import styles as with_seed

    if before == after == "-":
        raise LayoutError("-: standard input can be read only once; give - once")
    layouts = [with_seed(read_layout(source), 1, seed)[0] for source in (before, after)]
    with _opened(model, runner, out) as (opened, progress):
        comparison = write_comparison(layouts[0], layouts[1], opened, out, progress=progress)
    for line in comparison.lines:
        click.echo(line)
    _tell(comparison.path)


@contextmanager
def _opened(model: str, runner: str, out: Path) -> Iterator[tuple[Runner, Progress]]:
    """A model, and a folder that can be written to."""
    from lostgan_serve.files import writable
    from lostgan_serve.progress import ConsoleProgress
    from lostgan_serve.runners import open_runner

    progress = ConsoleProgress()
    with writable(out), closing(open_runner(runner, model, progress)) as opened:
        yield opened, progress


def _tell(*paths: Path) -> None:
    for path in paths:
        click.echo(click.format_filename(path))
