"""The commands of `experiment`. Importing this module must stay cheap: torch is imported inside the command."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from lostgan_evaluate.commands.usefulness import usefulness
from lostgan_evaluate.experiments.tables import EXPERIMENTS, Experiment
from lostgan_serve.choices import VARIANTS
from lostgan_serve.commands.options import GroupedCommand, ListOf, grouped
from lostgan_serve.errors import require
from lostgan_serve.progress import ConsoleProgress
from lostgan_train.options import SettingOption, given
from lostgan_train.settings import LITE, SemiSettings

_PACKAGES = ("torch", "torchvision", "pycocotools", "torch_fidelity", "lpips", "scipy", "lightning_fabric")
"""Packages that the extra `evaluate` brings."""

_OWN = frozenset(
    (
        "variant",
        "norm",
        "without",
        "detections",
        "seed",
        "detector_folder",
        "sample_every",
        "init",
        "init_discriminator",
    )
)
"""Settings of training that the rows, the seeds and the command itself decide."""

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better
_rows, _measuring, _results = map(grouped, ("Rows", "Measuring", "Results"))


def _shared_settings(command: click.Command) -> click.Command:
    """Add the settings of training that all rows share."""
    shared = [item for item in fields(SemiSettings) if item.name not in _OWN]
    defaults = {"perceptual": LITE}
    command.params.extend(
        SettingOption(item.name, defaults.get(item.name, item.default), dict(item.metadata)) for item in shared
    )
    return command


def _table(name: str) -> click.Command:
    """The command of a table."""
    chosen = EXPERIMENTS[name]

    @_shared_settings
    @click.command(
        name,
        cls=GroupedCommand,
        short_help=f"{chosen.title} ({chosen.source}).",
        help=f"""Compare the rows of a table: train them with equal budgets, measure them, and judge the claims.

        {chosen.title} ({chosen.source}). The same command goes on where it was interrupted, and trains and measures
        nothing twice.
        """,
    )
    @_results("--out", required=True, type=_Path, metavar="FOLDER", help="Folder of table.json and table.md.")
    @_results(
        "--networks",
        type=_Path,
        metavar="FOLDER",
        help="Folder of the networks, which several experiments may share.  [default: OUT/networks]",
    )
    @_results(
        "--known",
        type=_Path,
        metavar="FILE",
        help="table.json of the same table and budget, such as another machine's: its values stand, and what it lacks "
        "is trained.",
    )
    @_rows("--rows", type=ListOf("ROWS", str), help="Rows of the table, with commas between.  [default: all]")
    @_rows("--variant", type=click.Choice(VARIANTS), help="Network of all rows.  [default: the paper's]")
    @_rows("--seeds", type=click.IntRange(1), help="Trainings of each row.  [default: 3 where the table makes a claim]")
    @_measuring(
        "--held-out", type=_Path, metavar="FOLDER", help="Data to evaluate on.  [default: another split of --data]"
    )
    @_measuring("--metrics", type=ListOf("NAMES", str), help="As of `evaluate`.  [default: those of the table]")
    @_measuring("--count", type=click.IntRange(1), help="Layouts to evaluate on.  [default: all]")
    @_measuring("--samples", type=click.IntRange(1, 100), help="Styles of each layout.  [default: the protocol's]")
    @_measuring(
        "--weights",
        type=_Path,
        metavar="FOLDER",
        help="Weight files of other networks; `lostgan-serve weights` lists them.",
    )
    def command(**options: Any) -> None:
        _repeat(chosen, **options)

    return command


def _repeat(
    chosen: Experiment,
    out: Path,
    networks: Path | None,
    known: Path | None,
    rows: tuple[str, ...] | None,
    variant: str | None,
    seeds: int | None,
    held_out: Path | None,
    metrics: tuple[str, ...] | None,
    count: int | None,
    samples: int | None,
    weights: Path | None,
    **options: Any,
) -> None:
    for package in _PACKAGES:
        require(package, "evaluate")
    from lostgan_evaluate.experiments.known import Known
    from lostgan_evaluate.experiments.running import Plan, run
    from lostgan_evaluate.experiments.tabulate import MARKDOWN_FILE

    if variant is not None:
        chosen = chosen.of_variant(variant)
    if rows is not None:
        chosen = chosen.with_rows(rows)
    plan = Plan(
        chosen,
        {"perceptual": LITE} | given(options),
        out,
        networks or out / "networks",
        seeds or chosen.seeds(),
        metrics or chosen.metrics,
        held_out,
        count,
        samples,
        weights,
        Known.read(known) if known else None,
    )
    table = run(plan, ConsoleProgress())
    click.echo((out / MARKDOWN_FILE).read_text("utf-8"))
    click.echo(f"{click.format_filename(table)}: all of it; lostgan-serve report makes a page of it")


@click.group()
def experiment() -> None:
    """Repeat a table of the paper, compare options, or measure whether generated images help to train others.

    \b
    Example:  lostgan-serve experiment table7 --data data/scenes --held-out data/held-out --out runs/table7
    """


for _name in EXPERIMENTS:
    experiment.add_command(_table(_name))
experiment.add_command(usefulness)
