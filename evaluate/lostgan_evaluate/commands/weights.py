"""The command `weights`. Importing this module must stay cheap: torch is imported inside the command."""

from __future__ import annotations

from pathlib import Path

import click

from lostgan_serve.errors import require


@click.command()
@click.option(
    "--weights",
    type=click.Path(path_type=Path, readable=False),
    metavar="FOLDER",
    help="Folder in which to look for the files.",
)
def weights(weights: Path | None) -> None:
    """List the weights of networks that measure: checksums, origins, and which are at hand.

    Nothing is downloaded: put the files into a folder, and name it by --weights, here and in `evaluate`.
    """
    require("torch", "evaluate")
    from lostgan_evaluate.weights import WeightFiles, table

    for line in table(WeightFiles(weights)):
        click.echo(line)
