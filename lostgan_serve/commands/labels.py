"""The command `labels`."""

from __future__ import annotations

import click

from lostgan_serve.vocabulary import BUILT_IN_NAMES, BUNDLED_VOCABULARY


@click.command()
@click.option(
    "--vocabulary",
    default=BUNDLED_VOCABULARY,
    show_default=True,
    help=f"Vocabulary to list: {', '.join(BUILT_IN_NAMES)}. The bundled models know {BUNDLED_VOCABULARY}.",
)
def labels(vocabulary: str) -> None:
    """List what may stand in a layout's "label"."""
    from lostgan_serve.vocabulary import Vocabulary

    for label in Vocabulary.built_in(vocabulary):
        click.echo(label)
