"""Models as users name them: a checkpoint, released weights or a model's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lostgan_serve.choices import VARIANTS
from lostgan_serve.errors import CheckpointError
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner, open_runner
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Source
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint
from lostgan_train.networks.generator import GeneratorConfig
from lostgan_train.networks.importer import import_official
from lostgan_train.networks.runner import GeneratorRunner

OpenRunner = Callable[[Source, int | None], Runner]
"""Opens a model: takes the data, and the protocol's resolution where one is named."""

_CHECKPOINT, _RELEASED = ".safetensors", (".pth", ".pt", ".pkl", ".tar")


def open_model(
    model: Path, vocabulary: Vocabulary, resolution_px: int | None, runner: str, progress: Progress = SILENT
) -> Runner:
    """Open a model in this process.

    model: a .safetensors checkpoint, which PyTorch runs; released weights (.pth), likewise, with the labels of
    `vocabulary` and the first variant of `resolution_px` that they fit; or a model's folder, or its model.onnx, which
    `runner` runs, see `open_runner`. Raises CheckpointError, InputError, and what `open_runner` raises.
    """
    if model.suffix == _CHECKPOINT:
        return GeneratorRunner(load_checkpoint(model))
    if model.suffix in _RELEASED:
        return GeneratorRunner(_released(model, vocabulary, resolution_px))
    return open_runner(runner, model, progress)


def _released(weights: Path, vocabulary: Vocabulary, resolution_px: int | None) -> Checkpoint:
    """Released weights of whichever variant they fit. Raises CheckpointError and InputError."""
    errors: list[CheckpointError] = []
    for variant in VARIANTS:
        if resolution_px in (None, GeneratorConfig(variant, len(vocabulary), mask_classes=len(vocabulary)).resolution):
            try:
                return import_official(weights, variant, vocabulary)
            except CheckpointError as error:
                errors.append(error)
    raise errors[0]
