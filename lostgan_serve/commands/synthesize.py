"""The command `synthesize`: layouts in, a labelled data set out."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.choices import BOXES, DATA_FORMATS, IMAGE_KINDS, MAX_SEED
from lostgan_serve.commands.connection import ServerOptions, asked_model, optional_server_options
from lostgan_serve.commands.inference import model_options
from lostgan_serve.commands.options import Fields, GroupedCommand, ListOf, grouped, one_of
from lostgan_serve.errors import LostganError
from lostgan_serve.synthesize.recipe import Choices, Filters, Jitter, Recipe, Variation

if TYPE_CHECKING:
    from lostgan_serve.synthesize.plan import PlanSummary

_plan, _filters, _files, _engine = grouped("Plan"), grouped("Filters"), grouped("Data set"), grouped("Engine")
_path = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=GroupedCommand)
@click.argument("layouts", nargs=-1, required=True, type=_path)
@_plan("--per-layout", default=1, show_default=True, type=click.IntRange(1), help="Images of each layout.")
@_plan("--jitter", type=Fields(Jitter), default=Jitter(), help=Fields(Jitter).help("Move boxes"))
@_plan(
    "--vary", "variation", type=Fields(Variation), default=Variation(), help=Fields(Variation).help("Change objects")
)
@_plan(
    "--balance",
    default=0,
    metavar="COUNT",
    type=click.IntRange(0),
    help="Plan more images of layouts with rare labels, until each label has COUNT objects.",
)
@_plan("--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Of all choices and styles.")
@_plan(
    "--plan-only",
    metavar="FILE",
    type=_path,
    help="Write the plan to a .parquet or .jsonl file, print its counts, and generate nothing.",
)
@_filters("--filter", "filters", type=Fields(Filters), default=Filters(), help=Fields(Filters).help("Refuse images"))
@_filters("--scorer", type=_path, metavar="FILE", help="ONNX file of a classifier or detector, for --filter score=.")
@_filters(
    "--attempts",
    default=4,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Styles in which a refused image is generated, at most.",
)
@_files("--out", metavar="FOLDER", help="Folder of the data set, or a URL such as s3://bucket/folder.")
@_files(
    "--format",
    "formats",
    default=("coco",),
    type=ListOf("FORMATS", one_of(DATA_FORMATS)),
    help=f"Formats, with commas between: {', '.join(DATA_FORMATS)}.  [default: coco]",
)
@_files("--image", default="png", show_default=True, type=click.Choice(IMAGE_KINDS), help="Kind of the image files.")
@_files(
    "--bbox",
    "box",
    default="tight",
    show_default=True,
    type=click.Choice(BOXES),
    help="Box of an annotation: the layout's, or the one around its mask. COCO's records hold both.",
)
@_files("--shard-size", default=500, show_default=True, type=click.IntRange(1, 100_000), help="Images of a shard.")
@_files("--append", is_flag=True, help="Add to a data set that other layouts or options made.")
@model_options
@optional_server_options
@_engine(
    "--engine", default="local", show_default=True, type=click.Choice(["local", "ray"]), help="Where shards are made."
)
@_engine("--workers", type=click.IntRange(1), help="Ray: actors, each with a runner.  [default: one for each CPU]")
@_engine("--worker-gpus", default=0.0, type=click.FloatRange(0), help="Ray: GPUs of an actor, such as 0.5.")
def synthesize(
    layouts: tuple[Path, ...],
    out: str | None,
    plan_only: Path | None,
    scorer: Path | None,
    model: str,
    runner: str,
    server: ServerOptions | None,
    engine: str,
    workers: int | None,
    worker_gpus: float,
    formats: tuple[str, ...],
    image: str,
    box: str,
    append: bool,
    **recipe: Any,
) -> None:
    """Make a labelled data set for detection and segmentation from layouts.

    LAYOUTS are files: one layout, a JSON list of them, JSON lines, or the annotation file of any COCO-format set, whose
    images are not needed. The same command goes on where it was interrupted. The model runs in this process or, with
    --url, on a Triton server; --model is its name there, which is needed where the server has several.

    \b
    Example:  lostgan-serve synthesize layouts.jsonl --per-layout 4 --format coco,yolo --out data/synthetic
    """
    from lostgan_serve.progress import ConsoleProgress
    from lostgan_serve.runners import open_runner
    from lostgan_serve.synthesize.local import make_shards
    from lostgan_serve.synthesize.making import synthesize as make
    from lostgan_serve.synthesize.on_ray import RayEngine
    from lostgan_serve.synthesize.plan import Plan
    from lostgan_serve.synthesize.plan_file import check_plan_file, write_plan
    from lostgan_serve.synthesize.sources import read_sources

    planned = Recipe(**recipe)
    _check(out, plan_only, scorer, planned, formats)
    if plan_only:
        check_plan_file(plan_only)
    progress = ConsoleProgress()
    opens = (
        partial(server.open, asked_model(model))
        if server
        else partial(open_runner, runner, model, threads=1)  # so that images do not depend on the number of cores
    )
    with closing(opens(progress)) as opened:
        sources = read_sources(layouts, opened.manifest.capacity, progress)
        for reason, count in sources.left_out.items():
            progress.note(f"left out: {count} {reason}")
        plan = Plan(sources.layouts, planned, opened.manifest.capacity)
        if plan_only:
            _tell_summary(write_plan(plan, plan_only))
            return
        choices = Choices(formats, image, box, scorer, append)
        assert out is not None
        makes = RayEngine(opens, workers, worker_gpus) if engine == "ray" else make_shards
        counts = make(plan, out, opened, choices, makes, progress)
    for reason, count in counts.items():
        click.echo(f"{reason}: {count}")


def _check(
    out: str | None, plan_only: Path | None, scorer: Path | None, recipe: Recipe, formats: tuple[str, ...]
) -> None:
    """Refuse options that do not go together. Raises LostganError."""
    if (out is None) == (plan_only is None):
        raise LostganError("--out: give the folder of the data set, or --plan-only and a file for the plan alone")
    if (scorer is None) == bool(recipe.filters.score):
        raise LostganError("--scorer: it goes with --filter score=PROBABILITY; give both or neither")
    if {"yolo", "yolo-seg"} <= set(formats):
        raise LostganError("--format: yolo and yolo-seg write the same files; give one of them (both train detectors)")


def _tell_summary(summary: PlanSummary) -> None:
    """Print the counts of a plan, the rarest label first."""
    click.echo(f"layouts: {summary.layouts}\nimages: {summary.images}\nsmall objects left out: {summary.dropped}")
    for reason, count in summary.refused.items():
        click.echo(f"layouts refused by {reason}: {count}")
    width = max(map(len, summary.objects))
    click.echo(f"{'objects':{width}}  {'given':>8}  {'planned':>8}")
    for label, (before, after) in summary.objects.items():
        click.echo(f"{label:{width}}  {before:8}  {after:8}")
