"""Commands of the training side. Importing this module must stay cheap: torch is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lostgan_serve.choices import VARIANTS
from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.errors import require
from lostgan_serve.progress import ConsoleProgress
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary
from lostgan_train.options import given, settings_options
from lostgan_train.run_file import settings_for
from lostgan_train.settings import SemiSettings, TrainSettings

_TRAINING = ("torch", "torchvision", "matplotlib", "pycocotools", "tensorboard", "lightning_fabric")
"""Packages that the extra `train` brings."""

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better


@click.command("import")
@click.argument("weights", type=_Path)
@click.option("--variant", type=click.Choice(VARIANTS), required=True, help="Network that the weights belong to.")
@click.option(
    "--vocabulary", type=click.Choice(BUILT_IN_NAMES), required=True, help="Labels of the data that it was trained on."
)
@click.option("--output", type=_Path, metavar="FILE", required=True, help="Checkpoint to write (.safetensors).")
def import_weights(weights: Path, variant: str, vocabulary: str, output: Path) -> None:
    """Turn released LostGAN generator weights (.pth) into a checkpoint.

    The file is read without unpickling anything but tensors.
    """
    require("torch", "export")
    from lostgan_train.networks.checkpoint import save_checkpoint
    from lostgan_train.networks.importer import import_official

    checkpoint = import_official(weights, variant, Vocabulary.built_in(vocabulary))
    save_checkpoint(output, checkpoint)
    parameters = sum(p.numel() for p in checkpoint.generator.parameters())
    click.echo(f"{output}: {variant}, {vocabulary}, {parameters / 1e6:.1f} million weights")
    click.echo(f"next: lostgan-serve export --checkpoint {output}")


@click.command()
@click.option("--out", required=True, type=_Path, metavar="FOLDER", help="Folder of scenes to write, or to go on with.")
@click.option("--count", default=20000, show_default=True, type=click.IntRange(1), help="How many scenes to draw.")
@click.option("--res", default=128, show_default=True, help="Side of the pictures in pixels, a multiple of 4.")
@click.option("--first-seed", type=click.IntRange(0), help="Seed of the first scene.  [default: the first there is]")
@click.option("--held-out", is_flag=True, help="Draw for evaluation, from seed 50000000 on; nothing trains on these.")
@click.option("--workers", type=click.IntRange(1), help="Processes that draw.  [default: one for each core]")
def scenes(out: Path, count: int, res: int, first_seed: int | None, held_out: bool, workers: int | None) -> None:
    """Draw small landscapes to train on, with true masks, in COCO-Stuff's format.

    The same seeds give the same files. A run that was interrupted goes on where it stopped.
    """
    require("pycocotools", "train")
    from lostgan_train.synthetic.dataset import write_dataset

    write_dataset(out, count, res, first_seed, workers, ConsoleProgress(), held_out)
    click.echo(f"{out / 'annotations.json'}: {count} scenes of {res} x {res} px")


_run = grouped("Run")
_out = _run("--out", required=True, type=_Path, metavar="FOLDER", help="Folder of the run.")
_resume = _run("--resume", is_flag=True, help="Go on with the run in --out, by its own settings.")
_config = _run("--config", type=_Path, metavar="FILE", help="JSON file of settings; options count before it.")


@settings_options(TrainSettings)
@click.command(cls=GroupedCommand)
@_out
@_resume
@_config
@_run("--dry-run", is_flag=True, help="Read the data, make one step and write nothing.")
def train(out: Path, resume: bool, config: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a LostGAN.

    All settings are kept in run.json: `--resume --out RUN` needs nothing else, and what is given besides is changed
    from there on. On every GPU of a machine: torchrun --nproc-per-node GPUS -m lostgan_train OPTIONS.
    """
    settings = settings_for(TrainSettings, out, resume, config, given(options))
    _require_all(_TRAINING)
    from lostgan_train import training
    from lostgan_train.loop import words

    if dry_run:
        click.echo(words(training.try_step(settings, out, resume=resume, progress=ConsoleProgress())))
    else:
        training.train(settings, out, resume=resume, progress=ConsoleProgress())


@settings_options(SemiSettings)
@click.command(cls=GroupedCommand)
@_out
@_resume
@_config
def semi(out: Path, resume: bool, config: Path | None, **options: Any) -> None:
    """Train a LostGAN on a set of which only a part is annotated; the rest is labelled by a detector.

    A Faster R-CNN is trained on the annotated images and labels the others; the LostGAN's training follows. Where the
    others' annotations are only held back, they tell how good the detector is. --resume goes on at the stage where the
    run stopped.
    """
    settings = settings_for(SemiSettings, out, resume, config, given(options))
    _require_all(_TRAINING)
    from lostgan_train.training import train_semi

    train_semi(settings, out, resume=resume, progress=ConsoleProgress())


def _require_all(modules: tuple[str, ...]) -> None:
    """Raise MissingExtraError for the first of the packages that is not installed."""
    for module in modules:
        require(module, "train")
