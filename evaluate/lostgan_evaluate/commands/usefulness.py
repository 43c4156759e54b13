"""The command `experiment usefulness`. Importing this module must stay cheap: torch is imported inside the command."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from lostgan_serve.commands.inference import model_options
from lostgan_serve.commands.options import Fields, GroupedCommand, ListOf, grouped
from lostgan_serve.errors import require
from lostgan_serve.progress import ConsoleProgress
from lostgan_serve.synthesize.recipe import Jitter, Variation

_PACKAGES = ("torch", "torchvision", "matplotlib", "pycocotools", "scipy", "lightning_fabric", "onnxruntime")
"""Packages that the extra `evaluate` brings."""

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better
_data, _rows, _training = map(grouped, ("Data", "Rows", "Training"))


def _percent(text: str) -> float:
    """A share in percent. Raises ValueError."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 100:
        raise ValueError(f"{text!r} is no share; give percentages over 0 and up to 100, such as 1,5,25")
    return share


def _times(text: str) -> int:
    """A number of images for each one. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1000):
        raise ValueError(f"{text!r} is no number of images; give whole ones from 1 to 1000, such as 1,4")
    return int(text)


@click.command(cls=GroupedCommand, short_help="Whether generated images help a detector and a classifier.")
@_data("--data", required=True, type=_Path, metavar="FOLDER", help="Real images to learn from, as of `train`.")
@_data("--held-out", type=_Path, metavar="FOLDER", help="Real images to test on.  [default: another split of --data]")
@_data("--count", type=click.IntRange(1), help="Images to test on, the first ones.  [default: all]")
@_data("--out", required=True, type=_Path, metavar="FOLDER", help="Folder of usefulness.json, .md and .png.")
@_rows(
    "--shares",
    default=(1.0, 5.0, 10.0, 25.0),
    type=ListOf("PERCENT,...", _percent),
    help="Shares of the real images to learn from, in percent.  [default: 1,5,10,25]",
)
@_rows(
    "--times",
    default=(1, 4),
    type=ListOf("TIMES,...", _times),
    help="Generated images for each real one.  [default: 1,4]",
)
@_rows("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings of each row.")
@_rows(
    "--jitter",
    default="shift=0.1,scale=0.2,flip=0.5",
    show_default=True,
    type=Fields(Jitter),
    help=Fields(Jitter).help("Move boxes of the layouts that images are generated for"),
)
@_rows(
    "--vary", "variation", type=Fields(Variation), default=Variation(), help=Fields(Variation).help("Change objects")
)
@_training("--steps", default=300, show_default=True, type=click.IntRange(1), help="Updates of each detector.")
@_training("--batch", default=8, show_default=True, type=click.IntRange(1), help="Images in each.")
@_training(
    "--classifier-steps", default=600, show_default=True, type=click.IntRange(1), help="Updates of each classifier."
)
@_training("--workers", default=0, show_default=True, type=click.IntRange(0), help="Processes that load images.")
@model_options
def usefulness(
    data: Path,
    held_out: Path | None,
    count: int | None,
    out: Path,
    shares: tuple[float, ...],
    times: tuple[int, ...],
    seeds: int,
    jitter: Jitter,
    variation: Variation,
    steps: int,
    batch: int,
    classifier_steps: int,
    workers: int,
    model: str,
    runner: str,
) -> None:
    """Measure whether generated images help to train others: a detector and a classifier of crops.

    Both learn from a share of the real images alone, and with images added that the model generates for the layouts of
    that share; each row has as many updates as the others. In the end they learn from generated images alone, with the
    boxes of layouts and with those of masks. The same command goes on where it was interrupted, and trains and measures
    nothing twice.

    \b
    Example:  lostgan-serve experiment usefulness --data data/scenes --held-out data/held-out --out runs/usefulness
    """
    for package in _PACKAGES:
        require(package, "evaluate")
    from lostgan_evaluate.experiments.usefulness import run
    from lostgan_evaluate.experiments.usefulness_rows import Budget, Study
    from lostgan_evaluate.experiments.usefulness_table import MARKDOWN_FILE
    from lostgan_serve.runners import open_runner

    study = Study(
        data,
        held_out,
        out,
        tuple(sorted(set(shares))),
        tuple(sorted(set(times))),
        seeds,
        Budget(steps, batch, classifier_steps),
        count,
        jitter,
        variation,
        workers,
    )
    progress = ConsoleProgress()
    # one thread, so that images do not depend on the number of cores
    with closing(open_runner(runner, model, progress, threads=1)) as opened:
        table = run(study, opened, progress)
    click.echo((out / MARKDOWN_FILE).read_text("utf-8"))
    click.echo(f"{click.format_filename(table)}: all of it, with each row's scores by label")
