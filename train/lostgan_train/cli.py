"""Commands of the training side. Importing this module must stay cheap: torch is imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.errors import TrainingError, require
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

if TYPE_CHECKING:
    from lostgan_train.data import Source
    from lostgan_train.trainer import Trainer

VARIANTS = ("v1-64", "v1-128", "v2-128", "v2-256", "v2-512")
COMPONENTS = ("layout-to-mask", "mask-refinement", "image-head", "object-head")


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
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the first scene.")
@click.option("--workers", type=click.IntRange(1), help="Processes that draw.  [default: one for each core]")
def scenes(out: Path, count: int, res: int, first_seed: int, workers: int | None) -> None:
    """Draw small landscapes to train on, with true masks, in COCO-Stuff's format.

    The same seeds give the same files. A run that was interrupted goes on where it stopped.
    """
    require("pycocotools", "train")
    from lostgan_train.synthetic.dataset import write_dataset

    with click.progressbar(length=count, label="drawing", file=sys.stderr, show_pos=True) as bar:
        write_dataset(out, count, res, first_seed, workers, bar.update)
    click.echo(f"{out / 'annotations.json'}: {count} scenes of {res} x {res} px")


def _train_options(command: Any) -> Any:
    """What `train` and `semi` share."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.option("--variant", type=click.Choice(VARIANTS), required=True, help="Network to train."),
        click.option(
            "--data", required=True, type=click.Path(path_type=Path), help="Folder of a data set; see the README."
        ),
        click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run."),
        click.option(
            "--steps", default=100_000, show_default=True, type=click.IntRange(1), help="Updates of each network."
        ),
        click.option(
            "--batch", default=128, show_default=True, type=click.IntRange(1), help="Images per step, in all."
        ),
        click.option("--ch", default=64, show_default=True, type=click.IntRange(1), help="Width of the generator."),
        click.option("--discriminator-ch", type=click.IntRange(1), help="Width of the discriminator.  [default: --ch]"),
        click.option(
            "--norm",
            default="isla",
            show_default=True,
            type=click.Choice(["isla", "spade"]),
            help="As in section 2.2.3.",
        ),
        click.option(
            "--without",
            multiple=True,
            type=click.Choice(COMPONENTS),
            help="Switch a component off (table 7).",
        ),
        click.option(
            "--init", type=click.Path(path_type=Path), metavar="FILE", help="Generator's checkpoint to start from."
        ),
        click.option("--learning-rate", default=1e-4, show_default=True, type=click.FloatRange(0, min_open=True)),
        click.option(
            "--ema-decay", default=0.999, show_default=True, type=click.FloatRange(0, 1), help="Of the released one."
        ),
        click.option("--l1-weight", default=1.0, show_default=True, type=click.FloatRange(0), help="Of the L1 loss."),
        click.option(
            "--perceptual", required=True, metavar="FILE|none", help="VGG19 weights (vgg19-dcbb9e9d.pth), or none."
        ),
        click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16", "fp16"])),
        click.option(
            "--accumulate", default=1, show_default=True, type=click.IntRange(1), help="Parts of a process's batch."
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
        click.option("--checkpoint-every", default=1000, show_default=True, type=click.IntRange(1), metavar="STEPS"),
        click.option("--sample-every", default=500, show_default=True, type=click.IntRange(1), metavar="STEPS"),
        click.option(
            "--workers", default=2, show_default=True, type=click.IntRange(0), help="Processes that load images."
        ),
        click.option("--strict", is_flag=True, help="Refuse data with problems instead of skipping what has them."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _source(data: Path, strict: bool) -> Source:
    """The data set to train on, with its summary told. Raises MissingExtraError for what training needs, DataError."""
    for module in ("torch", "torchvision", "matplotlib", "tensorboard"):
        require(module, "train")
    from lostgan_train.data import open_data

    source = open_data(data, strict=strict)
    for line in source.summary.lines():
        click.echo(line)
    return source


def _trainer(
    source: Source, out: Path, perceptual: str, discriminator_ch: int | None, workers: int, options: dict[str, Any]
) -> Trainer:
    """The trainer that the options of `_train_options` ask for. Raises TrainingError, CheckpointError."""
    from lostgan_train.trainer import TrainConfig, Trainer

    config = TrainConfig(discriminator_ch=discriminator_ch or options["ch"], **options)
    return Trainer(config, source, out, None if perceptual == "none" else Path(perceptual), workers, click.echo)


@click.command()
@_train_options
@click.option("--resume", is_flag=True, help="Go on from the newest state in --out.")
@click.option("--dry-run", is_flag=True, help="Read the data, make one step, write nothing.")
def train(
    data: Path,
    out: Path,
    perceptual: str,
    discriminator_ch: int | None,
    workers: int,
    strict: bool,
    init: Path | None,
    resume: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train a LostGAN. Under torchrun, on every GPU of every machine: torchrun ... -m lostgan_train OPTIONS."""
    if not resume and any(out.glob("state-*.pt")):
        raise TrainingError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    source = _source(data, strict)
    trainer = _trainer(source, out, perceptual, discriminator_ch, workers, options)
    if resume:
        trainer.resume()
    elif init is not None:
        trainer.start_from(init)
    if dry_run:
        losses = trainer.step(next(trainer.batches()))
        click.echo("  ".join(f"{name} {value:.3f}" for name, value in losses.items()))
    else:
        trainer.run()


@click.command()
@_train_options
@click.option(
    "--annotated",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the images whose annotations are used.",
)
@click.option("--threshold", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Least probability.")
@click.option("--detector-steps", default=20_000, show_default=True, type=click.IntRange(1), help="Updates of it.")
@click.option("--detector-batch", default=8, show_default=True, type=click.IntRange(1), help="Images in each.")
@click.option("--resume", is_flag=True, hidden=True, expose_value=False)  # as `train` says; here it goes without saying
def semi(
    data: Path,
    out: Path,
    perceptual: str,
    discriminator_ch: int | None,
    workers: int,
    strict: bool,
    init: Path | None,
    annotated: float,
    threshold: float,
    detector_steps: int,
    detector_batch: int,
    **options: Any,
) -> None:
    """Train a LostGAN on a set of which only a part is annotated; the rest is labelled by a detector.

    A Faster R-CNN is trained on the annotated images and labels the others; in the LostGAN's training, which follows,
    each object that it found counts by its probability. The same command goes on where it stopped. The whole set has
    to be annotated, too: the annotations that are not used tell how good the detector is.
    """
    source = _source(data, strict)
    from lostgan_train.semi import LABELS_FILE, SemiConfig, complete

    stages = SemiConfig(annotated, threshold, detector_steps, detector_batch, options["seed"])
    if not (out / LABELS_FILE).exists():  # what a trainer would refuse is refused before the detector's hours
        _trainer(source, out, perceptual, discriminator_ch, workers, options)
    completed = complete(stages, source, data, out, workers, click.echo)
    if completed is None:
        return
    trainer = _trainer(completed, out, perceptual, discriminator_ch, workers, options)
    if any(out.glob("state-*.pt")):
        trainer.resume()
    elif init is not None:
        trainer.start_from(init)
    trainer.run()


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1), help="Held-out scenes.")
@click.option("--training-scenes", default=1500, show_default=True, type=click.IntRange(1), help="Of the classifier.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG of eight held-out scenes to write.")
def evaluate(checkpoint: Path, count: int, training_scenes: int, sheet: Path | None) -> None:
    """Score how well a generator of scenes keeps to the layouts of scenes that it was not trained on.

    Whether its objects are recognised is judged by a small classifier, trained first on crops of drawn scenes.
    """
    for module in ("torch", "torchvision", "pycocotools"):
        require(module, "train")
    from lostgan_serve.files import write_file
    from lostgan_train.classifier import EPOCHS, draw_crops, train_classifier, training_side
    from lostgan_train.evaluate import evaluation_sheet, repeats, score_layouts
    from lostgan_train.networks.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    if loaded.vocabulary.name != "scenes":
        raise TrainingError(f"{checkpoint}: paints {loaded.vocabulary.name}; only generators of scenes can be scored")
    if sheet is not None:  # first: a path that cannot be written should not cost minutes
        write_file(sheet, evaluation_sheet(loaded))
    with click.progressbar(length=training_scenes, label="drawing crops", file=sys.stderr) as bar:
        crops, labels = draw_crops(
            range(training_scenes), training_side(loaded.generator.config.resolution), bar.update
        )
    with click.progressbar(length=EPOCHS * len(crops), label="learning labels", file=sys.stderr) as bar:
        classifier = train_classifier(crops, labels, bar.update)
    with click.progressbar(length=count, label="painting", file=sys.stderr) as bar:
        scores = score_layouts(loaded, classifier, count, bar.update)
    hardest = [f"{label} {share:.0%}" for label, share in scores.generated.recalls.items()][:6]
    click.echo(f"scenes                   {scores.scenes}, {scores.objects} objects")
    click.echo(f"object map, mean IoU     {scores.object_map_iou:.3f} (boxes alone: {scores.box_iou:.3f})")
    real, generated = scores.real, scores.generated
    click.echo(f"crops recognised         real {real.accuracy:.1%}, generated {generated.accuracy:.1%}")
    click.echo(f"  mean over labels       real {real.mean_recall:.1%}, generated {generated.mean_recall:.1%}")
    click.echo(f"least often, generated   {', '.join(hardest)}")
    click.echo(f"two styles of a layout   {scores.style_distance:.1f} of 255 apart in a pixel's colour, on average")
    click.echo(f"picture against scene    {scores.l1:.1f} of 255 apart, on average")
    click.echo(f"the same seed again      {'the same picture, bit for bit' if repeats(loaded) else 'ANOTHER PICTURE'}")
