"""The commands `export` and `bench`. Importing this module imports nothing heavy."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lostgan_serve.contract import MAX_SLOTS, RESOLUTIONS
from lostgan_serve.errors import CheckpointError, LostganError, OutputError, require
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

if TYPE_CHECKING:
    from lostgan_serve.manifest import Manifest, Precision
    from lostgan_serve.runners.tensorrt import Target
    from lostgan_train.networks.checkpoint import Checkpoint

DEFAULT_VARIANTS = {64: "v1-64", 128: "v2-128", 256: "v2-256", 512: "v2-512"}
"""The variant that stands for each resolution where no checkpoint says which."""

BUNDLED = Path("checkpoints")

_resolution = click.Choice([str(side) for side in RESOLUTIONS])
_path = click.Path(path_type=Path)


@click.command()
@click.option("--res", required=True, type=_resolution, help="Image side in px.")
@click.option("--checkpoint", type=_path, help="A .safetensors file.  [default: checkpoints/scenes-RES.safetensors]")
@click.option("--random-weights", type=click.IntRange(0), metavar="SEED", help="Export an untrained generator.")
@click.option("--vocabulary", type=click.Choice(BUILT_IN_NAMES), help="Of an untrained generator.  [default: scenes]")
@click.option("--repository", default="triton_repo", show_default=True, type=_path, help="Triton model repository.")
@click.option(
    "--max-objects", type=click.IntRange(1, MAX_SLOTS), help="Objects that a layout may have.  [default: vocabulary's]"
)
@click.option(
    "--max-batch", default=8, show_default=True, type=click.IntRange(1, 128), help="Layouts that a server batches."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Of convolutions and matrix products, in the graph itself.",
)
@click.option(
    "--target",
    default="onnx",
    show_default=True,
    type=click.Choice(["onnx", "tensorrt", "tensorrt-rtx"]),
    help="Build an engine of the ONNX file, too: for this GPU, or without one for any from Ampere on.",
)
@click.option(
    "--mask-stages", type=int, metavar="K", help="Refine masks in the first K stages only, 0 for none.  [default: all]"
)
@click.option("--replace", is_flag=True, help="Take the place of the newest version.")
def export(
    res: str,
    checkpoint: Path | None,
    random_weights: int | None,
    vocabulary: str | None,
    repository: Path,
    max_objects: int | None,
    max_batch: int,
    precision: Precision,
    target: Literal["onnx", "tensorrt", "tensorrt-rtx"],
    mask_stages: int | None,
    replace: bool,
) -> None:
    """Export a generator to ONNX, compare it with PyTorch, and publish it in a Triton model repository."""
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    from lostgan_export.onnx_export import tool_versions

    if target != "onnx":
        from lostgan_serve.runners.tensorrt import bindings

        bindings(target)
    if random_weights is None and vocabulary is not None:
        raise click.UsageError("--vocabulary goes with --random-weights; a checkpoint has its own")
    if random_weights is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint and --random-weights exclude each other")
    with _stage("load the weights"):
        if random_weights is None:
            source = _load(checkpoint or BUNDLED / f"scenes-{res}.safetensors", int(res), bundled=checkpoint is None)
        else:
            source = _random(int(res), vocabulary or "scenes", random_weights)
    slots = _slots(source.vocabulary, max_objects)
    try:
        source.generator.config.refined_stages(mask_stages)
    except ValueError as error:
        raise LostganError(f"--mask-stages: {error}") from error
    manifest = source.manifest(slots, max_batch, precision, tool_versions(), mask_stages)
    if source.weights == "untrained":
        click.echo("note: these weights are untrained: the model has its full speed and paints noise")
    with _cleaning_up_on_sigterm():
        folder = _publish(source, manifest, repository, replace)
        if target != "onnx":
            _add_engine(folder, target)
    click.echo(folder)


@click.command()
@click.option("--res", default="256", show_default=True, type=_resolution, help="Image side in px.")
@click.option("--batch", default="1,4", show_default=True, metavar="N,N", help="Batch sizes, without a server.")
@click.option("--checkpoint", type=_path, help="Weights to run; random ones will do, speed does not depend on them.")
@click.option(
    "--runner",
    default="onnxrt",
    show_default=True,
    type=click.Choice(["onnxrt", "openvino", "compile", "all"]),
    help="What to hold against the paper's formulation.",
)
@click.option("--url", metavar="HOST:PORT", help="Measure this server over gRPC.")
@click.option("--concurrency", type=click.IntRange(1), help="Clients, with --url.  [default: 8]")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="In their place, layouts a second, at random moments."
)
@click.option("--repository", default="triton_repo", show_default=True, type=_path, help="What that server serves.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Figures are medians over these.")
@click.option("--json", "json_file", type=_path, help="Write the figures, and the machine they are of, to this file.")
@click.option("--plot", type=_path, help="Draw them as a PNG, without a server.")
def bench(
    res: str,
    batch: str,
    checkpoint: Path | None,
    runner: str,
    url: str | None,
    concurrency: int | None,
    rate: float | None,
    repository: Path,
    rounds: int,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare the exported formulation with the paper's; or, with --url, a server with the model it serves.

    Prints a table in Markdown.
    """
    if url is None and (rate or concurrency):
        raise click.UsageError("--concurrency and --rate go with --url: they are the load of a server")
    if url is not None and (checkpoint or plot):
        raise click.UsageError(
            "--checkpoint and --plot do not go with --url: the server has its own model, and a table only"
        )
    if rate and concurrency:
        raise click.UsageError("--concurrency and --rate exclude each other")
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    from lostgan_export.bench import formulations as formulations
    from lostgan_export.bench import served
    from lostgan_export.bench.report import machine
    from lostgan_serve.files import write_file

    report: dict[str, Any] = {"machine": machine(), "resolution": int(res)}
    if url is None:
        batches = _batches(batch)
        source = _load(checkpoint, int(res)) if checkpoint else _random(int(res), "coco-stuff", 0)
        manifest = source.manifest(source.vocabulary.slots, max(batches))
        weights = source.weights if checkpoint else "random, which does not change the speed"
        click.echo(f"{manifest.variant}, {manifest.slots} slots; weights: {weights}")
        names = formulations.RUNNERS[runner]
        timings = formulations.bench_formulations(source, manifest, batches, rounds, names, _progress)
        lines = formulations.timings_table(timings)
        if plot is not None:
            write_file(plot, formulations.timings_plot(timings, f"{manifest.variant}, {manifest.slots} slots, CPU"))
        report |= {"variant": manifest.variant, "slots": manifest.slots, "in_process": [asdict(row) for row in timings]}
    else:
        load = served.OpenLoop(rate) if rate else served.ClosedLoop(concurrency or 8)
        rows = served.bench_server(repository, f"lostgan_{res}", url, load, rounds, _progress)
        lines = served.served_table(rows)
        report["served"] = [asdict(row) for row in rows]
    click.echo("\n".join(lines))
    if json_file is not None:
        _write_json(json_file, report)


@click.command()
@click.option("--variant", default="v2-128", show_default=True, type=click.Choice(list(DEFAULT_VARIANTS.values())))
@click.option("--ch", default=64, show_default=True, type=click.IntRange(1), help="Width of both networks.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Images in a step.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Figures are medians over these.")
@click.option("--json", "json_file", type=_path, help="Write the figures, and the machine they are of, to this file.")
def bench_training(
    variant: str, ch: int, batch: int, precision: Precision, rounds: int, json_file: Path | None
) -> None:
    """Compare a training step, its pace and its peak memory, with the formulation of the paper."""
    for module in ("torch", "torchvision", "onnxruntime"):
        require(module, "export")
    from lostgan_export.bench.report import machine
    from lostgan_export.bench.training import bench_training as measure
    from lostgan_export.bench.training import training_table

    rows = measure(variant, ch, batch, precision, rounds, _progress)
    click.echo(f"{variant}, ch {ch}, {precision}")
    click.echo("\n".join(training_table(rows)))
    if json_file is not None:
        report = {"machine": machine(), "variant": variant, "ch": ch, "precision": precision}
        _write_json(json_file, report | {"step": [asdict(row) for row in rows]})


def _publish(source: Checkpoint, manifest: Manifest, repository: Path, replace: bool) -> Path:
    """Fuse, export, compare and publish; the folder of the model. Where a step fails the repository stays as it was,
    but for the last step, the configurations: the error says that the version is there without them."""
    from lostgan_export import parity
    from lostgan_export.fused import fuse
    from lostgan_export.onnx_export import export_onnx, set_manifest
    from lostgan_serve.model_folder import ModelFolder
    from lostgan_serve.triton.configuration import write_configuration

    folder = ModelFolder(repository / f"lostgan_{manifest.resolution}")
    with folder.new_version(replace=replace) as version:
        with _stage("fuse"):
            fused = fuse(source.generator, manifest.precision, manifest.mask_stages)
        with _stage("export to ONNX"):
            export_onnx(fused, manifest, version.onnx)
        with _stage("compare with PyTorch"):
            runner, runtime = parity.open_exported(version.onnx, fused, manifest)
            measured = parity.measure(runner, source.generator, runtime)
            runner.close()
        for line in parity.describe(measured):
            click.echo(f"  {line}")
        parity.check(measured, manifest.precision)
        with _stage("publish"):
            manifest = manifest.model_copy(update={"parity": measured})
            set_manifest(version.onnx, manifest)
            version.write_manifest(manifest)
            with tempfile.TemporaryDirectory(prefix="lostgan-export-") as scratch:  # what cannot be built fails here
                write_configuration(ModelFolder(Path(scratch) / folder.name), manifest)
    try:
        write_configuration(folder, manifest)
    except OutputError as error:
        raise OutputError(
            f"{error}; the new version is published, but the model's configuration is not: mend this, then export "
            "again with --replace"
        ) from error
    return folder.path


def _add_engine(folder: Path, target: Target) -> None:
    """Build an engine of a model's newest version, and add it there. Where that fails, the version stays as it is."""
    from lostgan_export.engine import build_engine
    from lostgan_serve.model_folder import ModelFolder

    model = ModelFolder(folder)
    version = model.newest()
    label = f"build a {target} engine"
    with click.progressbar(length=1000, label=label, item_show_func=lambda phase: phase) as bar:
        build_engine(
            version.onnx,
            version.manifest(),
            target,
            model.timing_cache,
            lambda done, phase: bar.update(round(1000 * done) - bar.pos, phase),
        )


def _load(path: Path, resolution: int, *, bundled: bool = False) -> Checkpoint:
    """A checkpoint of that resolution. Raises CheckpointError."""
    from lostgan_train.networks.checkpoint import load_checkpoint

    if bundled and not path.is_file():
        raise CheckpointError(
            f"{path}: no bundled weights of {resolution} px in this folder; import released ones with `lostgan-serve "
            "import` and name them with --checkpoint, or give --random-weights 0 for an untrained generator"
        )
    checkpoint = load_checkpoint(path)
    config = checkpoint.generator.config
    if config.resolution != resolution:
        raise CheckpointError(f"{path}: {config.variant} paints {config.resolution} px; give --res {config.resolution}")
    return checkpoint


def _random(resolution: int, vocabulary: str, seed: int) -> Checkpoint:
    from lostgan_train.networks.checkpoint import random_checkpoint

    return random_checkpoint(DEFAULT_VARIANTS[resolution], Vocabulary.built_in(vocabulary), seed)


def _slots(vocabulary: Vocabulary, max_objects: int | None) -> int:
    """Slots for so many objects, and one for the background object where layouts have it. Raises LostganError."""
    slots = vocabulary.slots if max_objects is None else max_objects + vocabulary.background
    if slots > MAX_SLOTS:
        raise LostganError(
            f"--max-objects {max_objects}: {vocabulary.name} needs a slot for the background besides, and there are "
            f"{MAX_SLOTS} at most; give --max-objects {MAX_SLOTS - 1} or less"
        )
    return slots


@contextmanager
def _cleaning_up_on_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the process as an exception does, so that temporary folders are removed."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Show what is being done and how many seconds it took."""
    click.echo(f"{what} ...", nl=False)
    start = time.perf_counter()
    done = False
    try:
        yield
        done = True
    finally:
        click.echo(f" {time.perf_counter() - start:.1f} s" if done else "")


def _progress(what: str) -> None:
    click.echo(what, err=True)


def _write_json(path: Path, report: dict[str, Any]) -> None:
    from lostgan_serve.files import write_file

    write_file(path, (json.dumps(report, indent=1) + "\n").encode())


def _batches(text: str) -> list[int]:
    """Batch sizes such as "1,4". Raises click.BadParameter."""
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"{text!r} is no list of batch sizes such as 1,4", param_hint="--batch")
    return [int(size) for size in sizes]
