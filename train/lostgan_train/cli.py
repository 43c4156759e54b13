"""Commands of the training side. Importing this module must stay cheap: torch is imported inside the commands."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.errors import TrainingError, require
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary
from lostgan_train.options import GroupedCommand, given, settings_options
from lostgan_train.run_file import RunFile, new_run, read_run
from lostgan_train.settings import VARIANTS, S, SemiSettings, TrainSettings, option_name, read_config

if TYPE_CHECKING:
    from lostgan_train.data import Source
    from lostgan_train.loop import Loop


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
    from lostgan_train.networks.checkpoint import Checkpoint, save_checkpoint
    from lostgan_train.networks.generator import GeneratorConfig
    from lostgan_train.networks.importer import load_official

    labels = Vocabulary.built_in(vocabulary)
    generator = load_official(weights, GeneratorConfig(variant, len(labels)))
    save_checkpoint(output, Checkpoint(generator, labels, "trained"))
    parameters = sum(p.numel() for p in generator.parameters())
    click.echo(f"{output}: {variant}, {vocabulary}, {parameters / 1e6:.1f} million weights")
    click.echo(f"next: lostgan-serve export --res {generator.config.resolution} --checkpoint {output}")


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write, or to go on with.")
@click.option("--count", default=20000, show_default=True, type=click.IntRange(1), help="How many scenes.")
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

    with click.progressbar(length=count, label="drawing", file=sys.stderr, show_pos=True) as bar:
        write_dataset(out, count, res, first_seed, workers, bar.update, held_out)
    click.echo(f"{out / 'annotations.json'}: {count} scenes of {res} x {res} px")


_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
_resume = click.option("--resume", is_flag=True, help="Go on with the run in --out, by its own settings.")
_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="JSON file of settings; options count before it."
)


@settings_options(TrainSettings)
@click.command(cls=GroupedCommand)
@_out
@_resume
@_config
@click.option("--dry-run", is_flag=True, help="Read the data, make one step and write nothing.")
def train(out: Path, resume: bool, config: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a LostGAN.

    All settings are kept in run.json: `--resume --out RUN` needs nothing else, and what is given besides is changed
    from there on. On every GPU of a machine: torchrun --nproc-per-node GPUS -m lostgan_train OPTIONS.
    """
    settings = _settings(TrainSettings, out, resume, config, options)
    source = _source(settings)
    from lostgan_train.gan import TrainingRun

    run = TrainingRun(settings, source, out, _say)
    if dry_run:
        losses = run.loop.step(next(run.batches(0)))
        _say("  ".join(f"{name} {value:.3f}" for name, value in losses.items()))
        return
    run.begin()
    _write_settings(settings, run.loop, resume, run.loop.done)
    run.run()


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
    settings = _settings(SemiSettings, out, resume, config, options)
    source = _source(settings)
    from lostgan_train.gan import TrainingRun
    from lostgan_train.semi_supervised import complete

    # made for its checks: what it would refuse is refused before the detector's hours
    loop = TrainingRun(settings, source, out, _say).loop
    _write_settings(settings, loop, resume, loop.newest_step)
    completed = complete(settings, source, out, _say)
    if completed is None:
        return
    run = TrainingRun(settings, completed, out, _say)
    run.begin()
    run.run()


def _say(line: str) -> None:
    """Print a line once, however many processes torchrun started."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(line)


def _settings(kind: type[S], out: Path, resume: bool, config: Path | None, options: dict[str, Any]) -> S:
    """The settings that a command asks for. Raises TrainingError, CheckpointError."""
    own = given(options)
    values = {**(read_config(kind, config) if config else {}), **own}
    if not resume:
        return new_run(kind, out, values)
    for name in ("init", "init_discriminator"):
        if name in own:
            raise TrainingError(
                f"{option_name(name)} and --resume exclude each other: a resumed run has its own weights"
            )
    return read_run(kind, out).override(values)


def _write_settings(settings: TrainSettings, loop: Loop, resume: bool, done: int) -> None:
    """Write run.json, or the changes to it; in the first process. Raises OutputError."""
    if not loop.processes.first:
        return
    if resume:
        read_run(type(settings), loop.out).record(settings, done)
    else:
        RunFile(loop.out, settings).write()


def _source(settings: TrainSettings) -> Source:
    """The data set to train on, with its summary told. Raises MissingExtraError for what training needs, DataError."""
    for module in ("torch", "torchvision", "matplotlib", "pycocotools", "tensorboard", "lightning_fabric"):
        require(module, "train")
    from lostgan_train.data import open_data

    source = open_data(
        settings.data,
        strict=settings.strict,
        images=settings.images,
        splits=settings.splits,
        stuff_only=settings.stuff_only,
    )
    for line in source.summary.lines():
        _say(line)
    return source


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1), help="Held-out scenes.")
@click.option(
    "--training-scenes",
    default=1500,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Drawn scenes that the classifier learns from.",
)
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG of eight held-out scenes to write.")
def evaluate(checkpoint: Path, count: int, training_scenes: int, sheet: Path | None) -> None:
    """Score how well a generator of scenes keeps to the layouts of scenes that it was not trained on.

    Whether its objects are recognised is judged by a small classifier, trained first on crops of drawn scenes.
    """
    for module in ("torch", "torchvision", "pycocotools", "tensorboard", "lightning_fabric"):
        require(module, "train")
    from lostgan_serve.files import write_file
    from lostgan_train.classifier import draw_crops, train_classifier, training_side
    from lostgan_train.distributed import Processes
    from lostgan_train.evaluate import evaluation_sheet, repeats, score_layouts
    from lostgan_train.networks.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    if loaded.vocabulary.name != "scenes":
        raise TrainingError(
            f"{checkpoint}: generates {loaded.vocabulary.name}; only generators of scenes can be scored"
        )
    if sheet is not None:  # first: a path that cannot be written should not cost minutes
        write_file(sheet, evaluation_sheet(loaded))
    with click.progressbar(length=training_scenes, label="drawing crops", file=sys.stderr) as bar:
        crops, labels = draw_crops(
            range(training_scenes), training_side(loaded.generator.config.resolution), bar.update
        )
    with tempfile.TemporaryDirectory(prefix="lostgan-classifier-") as folder:
        tell = partial(click.echo, err=True)
        classifier = train_classifier(crops, labels, loaded.vocabulary, Path(folder), Processes(), tell)
    if classifier is None:
        raise KeyboardInterrupt
    with click.progressbar(length=count, label="generating", file=sys.stderr) as bar:
        scores = score_layouts(loaded, classifier, count, bar.update)
    for line in scores.lines():
        click.echo(line)
    click.echo(f"the same seed again      {'the same picture, bit for bit' if repeats(loaded) else 'ANOTHER PICTURE'}")
