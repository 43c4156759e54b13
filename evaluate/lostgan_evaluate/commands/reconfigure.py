"""The command `reconfigure`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click

from lostgan_evaluate.commands.evaluate import (
    model_options,
    named_model,
    out_option,
    require_evaluate,
    seed_option,
    training_option,
)
from lostgan_serve.commands.connection import ServerOptions
from lostgan_serve.commands.options import GroupedCommand, grouped

_data = grouped("Data")


@click.command(cls=GroupedCommand)
@click.argument("model", required=False)
@_data(
    "--data",
    required=True,
    type=click.Path(path_type=Path, readable=False),
    metavar="FOLDER",
    help="Data whose layouts are edited.",
)
@_data(
    "--count", default=200, show_default=True, type=click.IntRange(1, 200), help="Number of layouts, the first ones."
)
@training_option
@seed_option
@model_options
@out_option
def reconfigure(
    model: str | None,
    data: Path,
    count: int,
    training_data: Path | None,
    seed: int,
    runner: str,
    server: ServerOptions | None,
    out: Path,
) -> None:
    """Measure how far the edit of one object reaches: it is added, moved, restyled or relabelled, and the picture is to
    change inside its box alone.

    MODEL is a checkpoint (.safetensors), released weights (.pth), or a model's folder; with --url it is the name of a
    server's model. The same as metric `reconfiguration` of `evaluate`, on one style of each layout.

    \b
    Example:  lostgan-serve reconfigure triton_repo/lostgan_128 --data data/held-out --training-data data/scenes
                --out runs/reconfigure
    """
    require_evaluate()
    from lostgan_evaluate.evaluation import evaluate, open_tools
    from lostgan_evaluate.metrics.reconfiguration import METRIC, table
    from lostgan_evaluate.subjects import Choice, subject_of_model
    from lostgan_serve.files import writable
    from lostgan_serve.progress import ConsoleProgress

    progress = ConsoleProgress()
    name, opened = named_model(model, runner, server, progress)
    choice = Choice(data, training_data, samples=1, count=count)
    with writable(out):
        tools = open_tools(out, seed=seed, progress=progress)
        subject = subject_of_model(name, opened, choice, out, seed=seed, progress=progress)
        assert subject.runner is not None
        with closing(subject.runner):
            path = evaluate(subject, tools, [METRIC.name])
    click.echo("\n".join(table(json.loads(path.read_bytes())["scores"])))
    click.echo(f"{click.format_filename(path)}: all of it; lostgan-serve report makes a page of it")
