"""The command `gaugan`. Importing this module must stay cheap: torch is imported inside the command."""

from __future__ import annotations

from pathlib import Path

import click

from lostgan_serve.errors import require
from lostgan_serve.progress import ConsoleProgress

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better


@click.command()
@click.argument("samples", type=_Path)
@click.option(
    "--weights",
    required=True,
    type=_Path,
    metavar="FILE",
    help="GauGAN's generator as its authors released it for COCO-Stuff: latest_net_G.pth.",
)
@click.option("--out", required=True, type=_Path, metavar="FOLDER", help="Folder of images, label maps and a sheet.")
def gaugan(samples: Path, weights: Path, out: Path) -> None:
    """Have GauGAN render the masks that a model of COCO-Stuff inferred from layouts.

    SAMPLES is a folder of images with object maps, as `generate` and `evaluate` write them. Images that are there
    already are kept. `evaluate --images OUT/images` measures them; OUT/spade is a data set for GauGAN's own code.
    """
    require("torch", "evaluate")
    from lostgan_evaluate.gaugan import post_hoc

    count = post_hoc.generate_from_masks(samples, weights, out, ConsoleProgress())
    click.echo(f"{click.format_filename(out / post_hoc.IMAGES_FOLDER)}: {count} images by GauGAN")
    click.echo(f"{click.format_filename(out / post_hoc.SPADE_FOLDER)}: the same label maps for GauGAN's own code")
    click.echo(f"{click.format_filename(out / post_hoc.SHEET_FILE)}: the first of them beside the samples")
