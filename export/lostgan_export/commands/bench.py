"""The commands `bench`, `bench-training`, `bench-editor` and `bench-synthesize`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lostgan_export.commands.export import require_export
from lostgan_serve.choices import VARIANTS
from lostgan_serve.commands.options import GroupedCommand, ListOf, Number, grouped
from lostgan_serve.contract import RESOLUTIONS
from lostgan_serve.errors import OutputError, require

if TYPE_CHECKING:
    from lostgan_serve.manifest import Precision

_DEFAULT_CLIENTS = 8
_DEFAULT_RESOLUTION = 256
_FORMULATIONS, _SERVED = "Formulations, without --url and --files", "An exported model, with --url or --files"

_figures, _formulations, _served = grouped("Figures"), grouped(_FORMULATIONS), grouped(_SERVED)


def _count(text: str) -> int:
    """A number of images. Raises ValueError."""
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{text!r} is no number of images; give a list such as 1,4")
    return int(text)


_rounds = _figures(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds that figures are medians over."
)
_json = _figures(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="File to write the figures to, with the machine that they are measured on.",
)


@click.command(cls=GroupedCommand)
@_figures(
    "--res",
    type=click.Choice([str(side) for side in RESOLUTIONS]),
    help=f"Image side in px.  [default: the checkpoint's, or {_DEFAULT_RESOLUTION}]",
)
@_rounds
@_json
@_formulations("--batch", "batches", default=(1, 4), type=ListOf("N,N", _count), help="Batch sizes.  [default: 1,4]")
@_formulations(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights to run; speed does not depend on them.  [default: random ones]",
)
@_formulations(
    "--runner",
    default="onnxrt",
    show_default=True,
    type=click.Choice(["onnxrt", "openvino", "compile", "all"]),
    help="Runtimes to compare with the paper's formulation; compile is torch.compile.",
)
@_formulations("--plot", type=click.Path(path_type=Path), help="PNG to draw the figures to.")
@_served("--url", metavar="HOST:PORT", help="Server to measure, over gRPC, beside the model that it serves.")
@_served("--files", type=click.IntRange(1), metavar="N", help="Measure `generate`: N layouts, their pictures written.")
@_served(
    "--repository",
    default="triton_repo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Model repository that holds the model.",
)
@_served("--model", metavar="NAME", help="Name of the model.  [default: lostgan_ and --res]")
@_served(
    "--concurrency",
    type=click.IntRange(1),
    help=f"Clients that ask the server of --url, each one layout at a time.  [default: {_DEFAULT_CLIENTS}]",
)
@_served(
    "--rate",
    type=Number(0, min_open=True),
    help="Layouts a second that the server of --url is sent at random moments, in place of --concurrency.",
)
def bench(res: str | None, rounds: int, json_file: Path | None, **options: Any) -> None:
    """Compare the exported formulation with the paper's; with --url, a server with the model that it serves; with
    --files, `generate` with inference alone.

    Prints a table in Markdown.

    \b
    Examples:
      lostgan-serve bench --res 128 --batch 1,4 --runner all
      lostgan-serve bench --res 128 --url localhost:8001 --concurrency 16
      lostgan-serve bench --res 128 --files 500
    """
    _check(options)
    require_export()
    resolution = int(res) if res else None
    with _writable(json_file, options["plot"]):
        if options["url"]:
            figures = _bench_server(resolution, rounds, options)
        elif options["files"]:
            figures = _bench_files(resolution, rounds, options)
        else:
            figures = _bench_formulations(resolution, rounds, options)
        _write_json(json_file, figures)


@click.command(cls=GroupedCommand)
@_figures("--variant", default="v2-128", show_default=True, type=click.Choice(VARIANTS), help="Networks to train.")
@_figures(
    "--ch", default=64, show_default=True, type=click.IntRange(1), help="Width of both networks; the paper's is 64."
)
@_figures("--batch", default=8, show_default=True, type=click.IntRange(1), help="Images in a step.")
@_figures(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Number type of convolutions and matrix products.",
)
@_rounds
@_json
def bench_training(
    variant: str, ch: int, batch: int, precision: Precision, rounds: int, json_file: Path | None
) -> None:
    """Compare a training step, its pace and its peak memory, with the formulation of the paper.

    \b
    Example:  lostgan-serve bench-training --variant v2-128 --ch 16 --batch 8
    """
    for module in ("torch", "torchvision"):
        require(module, "export")
    from lostgan_export.bench.training import bench_training as measure
    from lostgan_export.bench.training import training_table
    from lostgan_serve.progress import ConsoleProgress

    with _writable(json_file):
        rows = measure(variant, ch, batch, precision, rounds, ConsoleProgress())
        click.echo(f"{variant}, ch {ch}, {precision}")
        _print(training_table(rows))
        _write_json(
            json_file, {"variant": variant, "ch": ch, "precision": precision, "step": [asdict(row) for row in rows]}
        )


@click.command(cls=GroupedCommand)
@click.argument("layout", type=click.Path(path_type=Path))
@_figures(
    "--model",
    default="triton_repo/lostgan_128",
    show_default=True,
    type=click.Path(path_type=Path),
    help="A model's folder in the repository.",
)
@_figures("--drags", default=100, show_default=True, type=click.IntRange(1), help="Short drags that are timed.")
@_figures(
    "--seconds", default=10.0, show_default=True, type=Number(0, min_open=True), help="Length of the last, long drag."
)
@_json
def bench_editor(layout: Path, model: Path, drags: int, seconds: float, json_file: Path | None) -> None:
    """Measure in Chromium how soon the editor shows the picture of a box that was dragged.

    LAYOUT is a layout.json, whose smallest object is dragged. Needs Playwright and Chromium.

    \b
    Example:  lostgan-serve bench-editor examples/coast.json
    """
    from lostgan_export.bench import editor
    from lostgan_serve.progress import ConsoleProgress

    with _writable(json_file):
        speed = editor.bench_editor(model, layout, drags, seconds, ConsoleProgress())
        _print(editor.speed_table(speed))
        _write_json(json_file, {"model": model.name, "layout": layout.name} | asdict(speed))


@click.command(cls=GroupedCommand)
@click.argument("model", type=click.Path(path_type=Path))
@_figures(
    "--images",
    "counts",
    default=(2000,),
    type=ListOf("N,N", _count),
    help="Images of a data set, with commas between.  [default: 2000]",
)
@_figures("--ray", is_flag=True, help="Measure the engine of Ray, too.")
@_rounds
@_json
def bench_synthesize(model: Path, counts: tuple[int, ...], ray: bool, rounds: int, json_file: Path | None) -> None:
    """Measure the pace of data sets, and their memory, beside that of inference alone.

    MODEL is a model's folder in the repository.

    \b
    Example:  lostgan-serve bench-synthesize triton_repo/lostgan_128 --images 500,2000 --ray
    """
    from lostgan_export.bench import synthesized
    from lostgan_serve.progress import ConsoleProgress

    engines = synthesized.ENGINES if ray else synthesized.ENGINES[:1]
    with _writable(json_file):
        alone, rows = synthesized.bench_synthesize(model, counts, engines, rounds, ConsoleProgress())
        _print(synthesized.made_table(alone, rows))
        _write_json(json_file, {"model": model.name, "inference": alone, "synthesize": [asdict(row) for row in rows]})


def _check(options: dict[str, Any]) -> None:
    """Refuse options that would do nothing. Raises click.UsageError."""
    url, files = options["url"], options["files"]
    if url is None and (options["rate"] or options["concurrency"]):
        raise click.UsageError("--concurrency and --rate go with --url: they are the load of a server")
    if options["rate"] and options["concurrency"]:
        raise click.UsageError("--concurrency and --rate exclude each other")
    if url is not None and files is not None:
        raise click.UsageError("--url and --files exclude each other")
    context, served = click.get_current_context(), bool(url or files)
    idle = [
        option.opts[0]
        for option in context.command.params
        if getattr(option, "group", "") == (_FORMULATIONS if served else _SERVED)
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]
    if idle and served:
        raise click.UsageError(f"{idle[0]} does not go with --url or --files, which measure a model of --repository")
    if idle:
        raise click.UsageError(f"{idle[0]} goes with --url or --files, which measure a model of --repository")


@contextmanager
def _writable(*paths: Path | None) -> Iterator[None]:
    """See that files can be written, before what takes long is measured for them. Raises OutputError."""
    from lostgan_serve.files import writable

    with ExitStack() as stack:
        for path in filter(None, paths):
            stack.enter_context(writable(path.parent))
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; name a file")
        yield


def _bench_server(resolution: int | None, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    from lostgan_export.bench import served
    from lostgan_serve.progress import ConsoleProgress

    load: served.Load = served.ClosedLoop(options["concurrency"] or _DEFAULT_CLIENTS)
    if options["rate"]:
        load = served.OpenLoop(options["rate"])
    model = _model(resolution, options)
    rows = served.bench_server(model, options["url"], load, rounds, ConsoleProgress())
    _print(served.served_table(rows))
    return {"model": model.name, "served": [asdict(row) for row in rows]}


def _bench_files(resolution: int | None, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    from lostgan_export.bench import files
    from lostgan_serve.progress import ConsoleProgress

    model = _model(resolution, options)
    rows = files.bench_files(model, options["files"], rounds, ConsoleProgress())
    _print(files.written_table(rows))
    return {"model": model.name, "files": [asdict(row) for row in rows]}


def _bench_formulations(resolution: int | None, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    from lostgan_export.bench import formulations
    from lostgan_export.weights import random_weights, stored_weights
    from lostgan_serve.files import write_file
    from lostgan_serve.progress import ConsoleProgress

    path, batches = options["checkpoint"], options["batches"]
    source = (
        stored_weights(path, resolution) if path else random_weights(resolution or _DEFAULT_RESOLUTION, "coco-stuff", 0)
    )
    manifest = source.manifest(source.vocabulary.slots, max(batches))
    weights = source.weights if path else "random, which does not change the speed"
    click.echo(f"{manifest.variant}, {manifest.slots} slots; weights: {weights}")
    candidates = formulations.RUNNERS[options["runner"]]
    rows = formulations.bench_formulations(source, manifest, batches, rounds, candidates, ConsoleProgress())
    _print(formulations.timings_table(rows))
    if options["plot"]:
        title = f"{manifest.variant}, {manifest.slots} slots, CPU"
        write_file(options["plot"], formulations.timings_plot(rows, title))
    return {
        "resolution": manifest.resolution,
        "variant": manifest.variant,
        "slots": manifest.slots,
        "in_process": [asdict(row) for row in rows],
    }


def _model(resolution: int | None, options: dict[str, Any]) -> Path:
    from lostgan_serve.model_folder import model_name

    repository: Path = options["repository"]
    return repository / (options["model"] or model_name(resolution or _DEFAULT_RESOLUTION))


def _print(lines: Sequence[str]) -> None:
    click.echo("\n".join(lines))


def _write_json(path: Path | None, figures: dict[str, Any]) -> None:
    from lostgan_export.bench.report import machine
    from lostgan_serve.files import write_file

    if path is not None:
        write_file(path, (json.dumps({"machine": machine()} | figures, indent=1) + "\n").encode())
