"""Commands of the training side. Importing this module must stay cheap: torch is imported inside the commands."""

from __future__ import annotations

from pathlib import Path

import click

from lostgan_serve.errors import require
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

VARIANTS = ("v1-64", "v1-128", "v2-128", "v2-256", "v2-512")


@click.command("import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--variant", type=click.Choice(VARIANTS), required=True, help="Network that the weights belong to.")
@click.option("--vocabulary", type=click.Choice(BUILT_IN_NAMES), required=True, help="Data that it was trained on.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Checkpoint to write (.safetensors).")
def import_weights(weights: Path, variant: str, vocabulary: str, output: Path) -> None:
    """Turn released LostGAN generator weights (.pth) into a checkpoint.

    The file is read without unpickling anything but tensors.
    """
    require("torch", "export")
    from lostgan_train.checkpoint import Checkpoint, save_checkpoint
    from lostgan_train.generator import GeneratorConfig
    from lostgan_train.official import load_official

    labels = Vocabulary.built_in(vocabulary)
    generator = load_official(weights, GeneratorConfig(variant, len(labels)))
    save_checkpoint(output, Checkpoint(generator, labels, "trained"))
    parameters = sum(p.numel() for p in generator.parameters())
    click.echo(f"{output}: {variant}, {vocabulary}, {parameters / 1e6:.1f} million weights")
    click.echo(f"next: lostgan-serve export --res {generator.config.resolution} --checkpoint {output}")
