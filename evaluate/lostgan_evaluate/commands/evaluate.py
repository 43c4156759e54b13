"""The command `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.choices import MAX_SEED, RUNNER_VARIABLE
from lostgan_serve.commands.connection import ServerOptions, optional_server_options
from lostgan_serve.commands.options import GroupedCommand, ListOf, grouped
from lostgan_serve.errors import EvaluationError, require

if TYPE_CHECKING:
    from lostgan_evaluate.models import OpenRunner
    from lostgan_serve.progress import Progress
    from lostgan_serve.runners import Runner
    from lostgan_train.data import Source

_PACKAGES = ("torch", "torchvision", "pycocotools", "torch_fidelity", "lpips", "scipy")
"""Packages that the extra `evaluate` brings."""

_Path = click.Path(path_type=Path, readable=False)  # what reads it says so better
_images, _data, _how, _model, _results = map(grouped, ("Images", "Data", "Measuring", "Model", "Results"))

training_option = _data(
    "--training-data",
    type=_Path,
    metavar="FOLDER",
    help="Data that networks are trained on and neighbours looked for in.  [default: split train of --data]",
)
seed_option = _how(
    "--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Seed of styles and of subsets."
)
out_option = _results(
    "--out", required=True, type=_Path, metavar="FOLDER", help="Folder of evaluation.json, samples and features."
)


def model_options(command: Callable[..., Any]) -> Any:
    """Give a command the options that say what runs a model."""
    runner = _model(
        "--runner",
        default="auto",
        show_default=True,
        envvar=RUNNER_VARIABLE,
        show_envvar=True,
        help="Library that runs a model's folder: onnxrt, openvino or tensorrt. PyTorch runs checkpoints.",
    )
    return runner(optional_server_options(command))


def named_model(
    model: str | None, runner: str, server: ServerOptions | None, progress: Progress
) -> tuple[str, OpenRunner]:
    """The name of a model of this process or of a server, and what opens it once its data are known.

    Raises EvaluationError where neither is given.
    """
    if model is None and server is None:
        raise EvaluationError("give a MODEL: a checkpoint, a model's folder, or --url of a server")

    def opened(source: Source, side_px: int | None) -> Runner:
        from lostgan_evaluate.models import open_model

        if server is not None:
            return server.open(model, progress)
        return open_model(Path(model or ""), source.vocabulary, side_px, runner, progress)

    return model or (server.url if server else ""), opened


def require_evaluate() -> None:
    """Raise MissingExtraError where a package that evaluation needs is not installed."""
    for package in _PACKAGES:
        require(package, "evaluate")


@click.command(cls=GroupedCommand)
@click.argument("model", required=False)
@_images("--images", type=_Path, metavar="FOLDER", help="Images of another tool to evaluate, in place of a MODEL.")
@_images("--against", type=_Path, metavar="FOLDER", help="Real images without layouts, in place of --data.")
@_data("--data", type=_Path, metavar="FOLDER", help="Data whose layouts are generated and whose images are compared.")
@_data("--split", help="Part of the data: train, val or test.  [default: the protocol's]")
@_data("--count", type=click.IntRange(1), help="Number of layouts, the first ones.  [default: all]")
@training_option
@_how("--protocol", help="Protocol by name, such as paper-coco-128.  [default: by data and resolution]")
@_how("--samples", type=click.IntRange(1, 100), help="Styles of each layout.  [default: the protocol's]")
@_how(
    "--metrics",
    default="all",
    show_default=True,
    type=ListOf("NAMES", str),
    help="Metrics with commas between; all stands for those that can be measured.",
)
@_how(
    "--features",
    type=ListOf("NAMES", str),
    help="Networks that features come from: efficientnet-lite0, inception.  [default: those at hand]",
)
@_how(
    "--weights",
    type=_Path,
    metavar="FOLDER",
    help="Weight files of other networks; `lostgan-serve weights` lists them.",
)
@seed_option
@model_options
@out_option
def evaluate(
    model: str | None,
    images: Path | None,
    against: Path | None,
    data: Path | None,
    split: str | None,
    count: int | None,
    training_data: Path | None,
    protocol: str | None,
    samples: int | None,
    metrics: tuple[str, ...],
    features: tuple[str, ...] | None,
    weights: Path | None,
    seed: int,
    runner: str,
    server: ServerOptions | None,
    out: Path,
) -> None:
    """Measure a model, or images of any other tool, as the paper does.

    MODEL is a checkpoint (.safetensors), released weights (.pth), or a model's folder; with --url it is the name of a
    server's model. Images are generated once, features are computed once: a call that was interrupted goes on where it
    stopped, and one with other metrics uses what is there.

    \b
    Examples:
      lostgan-serve evaluate checkpoints/scenes-128.safetensors --data data/held-out --out runs/eval
      lostgan-serve evaluate --images theirs --against real --metrics fd,kid,prdc --out runs/theirs
    """
    require_evaluate()
    from lostgan_evaluate import evaluation
    from lostgan_evaluate.metrics.registry import metric
    from lostgan_evaluate.subjects import Choice, subject_of_images, subject_of_model
    from lostgan_serve.files import writable
    from lostgan_serve.progress import ConsoleProgress

    _check(model, images, against, data, asks_server=server is not None)
    choice = Choice(data, training_data, protocol, split, samples, count)
    names = None if metrics == ("all",) else metrics
    for name in names or ():
        metric(name)  # before anything is generated
    progress = ConsoleProgress()

    with writable(out), ExitStack() as stack:
        tools = evaluation.open_tools(out, weights, features or (), seed=seed, progress=progress)
        if images is None:
            name, opened = named_model(model, runner, server, progress)
            subject = subject_of_model(name, opened, choice, out, seed=seed, progress=progress)
            if subject.runner is not None:
                stack.enter_context(closing(subject.runner))
        else:
            subject = subject_of_images(images, against, choice, progress=progress)
        path = evaluation.evaluate(subject, tools, names)
    for line in evaluation.lines(path):
        click.echo(line)
    click.echo(f"{click.format_filename(path)}: all of it; lostgan-serve report makes a page of it")


def _check(model: str | None, images: Path | None, against: Path | None, data: Path | None, asks_server: bool) -> None:
    """Raise EvaluationError for arguments that contradict each other."""
    if (model is None and not asks_server) == (images is None):
        raise EvaluationError("give either a MODEL (a checkpoint, a model's folder, --url of a server) or --images")
    if against is not None and images is None:
        raise EvaluationError("--against is for --images; the layouts that a MODEL generates come from --data")
    if (data is None) == (against is None):
        raise EvaluationError("give --data, a data set, or with --images a folder of real images by --against")
