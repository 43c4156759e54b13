"""The command `export`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.contract import MAX_SLOTS, RESOLUTIONS
from lostgan_serve.errors import require
from lostgan_serve.vocabulary import BUILT_IN_NAMES, BUNDLED_VOCABULARY

if TYPE_CHECKING:
    from lostgan_serve.runners.tensorrt import Target

ONNX: Final = "onnx"
"""The value of --target that builds no engine."""

_weights, _model, _format = grouped("Weights"), grouped("Model"), grouped("Format")


@click.command(cls=GroupedCommand)
@_weights(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint to export, as `train` and `import` write it (.safetensors).  [default: the bundled one of --res]",
)
@_weights(
    "--res",
    type=click.Choice([str(side) for side in RESOLUTIONS]),
    help="Image side in px of the bundled or untrained model to export; a checkpoint has its own.",
)
@_weights(
    "--random-weights", type=click.IntRange(0), metavar="SEED", help="Export an untrained generator of this seed."
)
@_weights(
    "--vocabulary",
    type=click.Choice(BUILT_IN_NAMES),
    help=f"Labels of an untrained generator; a checkpoint has its own.  [default: {BUNDLED_VOCABULARY}]",
)
@_model(
    "--repository",
    default="triton_repo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Triton model repository to publish in.",
)
@_model("--name", help="Name to serve the model by.  [default: lostgan_ and its image side]")
@_model("--replace", is_flag=True, help="Take the place of the model's newest version, in place of adding one.")
@_model(
    "--max-objects",
    type=click.IntRange(1, MAX_SLOTS),
    help="Most objects that a layout may have.  [default: what the vocabulary is made for]",
)
@_model(
    "--max-batch",
    default=8,
    show_default=True,
    type=click.IntRange(1, 128),
    help="Most layouts that a server generates at a time.",
)
@_model(
    "--mask-stages", type=int, metavar="K", help="Refine masks in the first K stages only, 0 for none.  [default: all]"
)
@_format(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Number type of convolutions and matrix products: bf16 for OpenVINO, fp16 and bf16 for GPUs.",
)
@_format(
    "--target",
    default=ONNX,
    show_default=True,
    type=click.Choice([ONNX, "tensorrt", "tensorrt-rtx"]),
    help="Engine to build of the ONNX file, too: tensorrt for this machine's GPU, tensorrt-rtx (without a GPU) for any "
    "from Ampere on.",
)
def export(
    res: str | None,
    checkpoint: Path | None,
    random_weights: int | None,
    vocabulary: str | None,
    repository: Path,
    name: str | None,
    target: Literal["onnx"] | Target,
    **options: Any,
) -> None:
    """Export a generator to ONNX, compare it with PyTorch, and publish it in a Triton model repository.

    Prints the model's folder.

    \b
    Examples:
      lostgan-serve export --res 512
      lostgan-serve export --checkpoint runs/coast/generator.safetensors --name coast
      lostgan-serve export --res 256 --random-weights 0 --repository untrained_repo
    """
    if random_weights is None and vocabulary is not None:
        raise click.UsageError("--vocabulary goes with --random-weights; a checkpoint has its own")
    if random_weights is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint and --random-weights exclude each other")
    if res is None and checkpoint is None:
        raise click.UsageError("name the weights: --res for a bundled model, or --checkpoint FILE")
    require_export()
    from lostgan_export.publishing import publish
    from lostgan_export.weights import random_weights as untrained
    from lostgan_export.weights import stored_weights
    from lostgan_serve.progress import ConsoleProgress

    progress = ConsoleProgress()
    with progress.stage("load the weights"):
        resolution = int(res) if res else None
        if random_weights is None:
            weights = stored_weights(checkpoint, resolution)
        else:
            assert resolution
            weights = untrained(resolution, vocabulary or BUNDLED_VOCABULARY, random_weights)
    with cleaning_up_on_sigterm():
        folder = publish(
            weights, repository, name, target=None if target == ONNX else target, progress=progress, **options
        )
    click.echo(click.format_filename(folder.path))


def require_export() -> None:
    """Raise MissingExtraError unless the packages of the extra "export" are installed."""
    from lostgan_serve.runners.onnxrt import onnxruntime

    onnxruntime("export")  # before torch, whose exporter might import it with telemetry
    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export")


@contextmanager
def cleaning_up_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end the process as an exception does meanwhile, so that temporary folders are removed."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
