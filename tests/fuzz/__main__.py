"""The command behind `make fuzz`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fuzz.campaign import campaign, new_materials, table
from fuzz.registry import TARGETS


@click.command()
@click.argument("names", metavar="[TARGET]...", nargs=-1, type=click.Choice(list(TARGETS)))
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Inputs of each target.")
@click.option("--seed", default=0, show_default=True, help="Of the inputs: the same one makes the same inputs.")
@click.option("--finds", default=Path("out/fuzz"), show_default=True, type=click.Path(path_type=Path), help="Folder.")
def fuzz(names: tuple[str, ...], count: int, seed: int, finds: Path) -> None:
    """Try changed inputs of everything that takes input from outside, by default of all targets.

    Prints a table. Exit code 1 where there were finds, whose inputs lie in the folder of finds then.
    """
    rows = []
    with new_materials() as materials:
        for name in names or TARGETS:
            rows.append(campaign(name, TARGETS[name], materials, count, seed, finds))
            click.echo(f"{name}: {rows[-1].tried:,} inputs, {rows[-1].finds} finds", err=True)
    click.echo(table(rows))
    sys.exit(any(row.finds for row in rows))


if __name__ == "__main__":
    fuzz()
