"""Where the tensors of the contract are computed. Every runner is one method: run(tensors) -> tensors."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Protocol, cast

from lostgan_serve.contract import Array, Tensors
from lostgan_serve.errors import LostganError, ModelError
from lostgan_serve.manifest import Manifest
from lostgan_serve.model_folder import MANIFEST_FILE, ONNX_FILE, ModelVersion, find_version
from lostgan_serve.progress import SILENT, Progress

RUNNERS = {
    "onnxrt": "lostgan_serve.runners.onnxrt:OnnxRunner",
    "openvino": "lostgan_serve.runners.openvino:OpenVinoRunner",
    "tensorrt": "lostgan_serve.runners.tensorrt:TensorRTRunner",
}
"""The classes that run a model in this process: name -> class, imported on use."""

AUTO = "auto"
"""The name under which `open_runner` chooses one of them."""


class Runner(Protocol):
    """Anything that generates batches of layouts.

    manifest: the model behind it. concurrency: how many `run` calls at a time are worth making, each from a thread
    of its own.
    """

    manifest: Manifest
    concurrency: int

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """Compute one batch.

        tensors: the inputs of the contract, up to `manifest.max_batch` layouts. outputs: the names of the contract's
        outputs that are wanted; no others are computed for the caller or sent. Raises ModelError or ServerError.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory; no `run` after that."""
        ...


def open_runner(
    name: str, model: str | os.PathLike[str], progress: Progress = SILENT, threads: int | None = None
) -> Runner:
    """Open a model in this process.

    name: one of RUNNERS, or AUTO: TensorRT where the model's newest version has an engine that runs here, else ONNX
    Runtime, and OpenVINO for a model in bf16 or where that is not installed. model: a model's folder in the repository,
    or one of its files. progress: is told what AUTO chose, and why. threads: for each batch on a CPU, by default one a
    core. With one thread, an image does not depend on how many cores there are, and as many callers keep them busy.

    Raises ModelError for another name, or a model that is missing, broken or not the one that export made, InputError
    for one that may not be read, DeviceError where this machine cannot run it, and MissingExtraError naming the package
    that a runner needs.
    """
    if name not in (AUTO, *RUNNERS):
        raise ModelError(f"runner {name!r}: there is none of that name; choose from {', '.join((AUTO, *RUNNERS))}")
    version = find_version(model)
    if version.onnx.name == ONNX_FILE and not version.is_sealed():
        progress.note(
            f"note: {version.onnx} has no hash in a {MANIFEST_FILE} beside it, so that damage may go unnoticed; export "
            "the model again"
        )
    if name != AUTO:
        return _opened(name, model, threads)
    why_not = ""
    if version.has_engine():
        try:
            runner = _opened("tensorrt", version.plan, None)
        except LostganError as error:
            why_not = f"; not TensorRT: {error}"
        else:
            progress.note("runner: tensorrt (the model has an engine for this GPU)")
            return runner
    # ONNX Runtime first: an fp32 image took 0.75 (ch 16) to 0.93 (ch 64) of OpenVINO's time on an AMD EPYC
    name, reason = "onnxrt", ""
    if _installed("openvino") and not _installed("onnxruntime"):
        name, reason = "openvino", "onnxruntime is not installed"
    elif _installed("openvino") and _precision(version) == "bf16":
        name, reason = "openvino", "the model is in bf16, which ONNX Runtime does not compute on CPUs"
    runner = _opened(name, version.onnx, threads)
    progress.note(f"runner: {name} ({reason or _place(runner)}{why_not})")
    return runner


def _opened(name: str, model: str | os.PathLike[str], threads: int | None) -> Runner:
    module, _, attribute = RUNNERS[name].partition(":")
    settings = {} if threads is None or name == "tensorrt" else {"threads": threads}
    return cast(Runner, getattr(importlib.import_module(module), attribute)(model, **settings))


def _precision(version: ModelVersion) -> str | None:
    """The precision in the manifest beside a model; None where there is no manifest."""
    try:
        return version.manifest().precision
    except LostganError:
        return None


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def _place(runner: Runner) -> str:
    """Where an OnnxRunner computes, and why there."""
    provider = str(getattr(runner, "provider", "")).removesuffix("ExecutionProvider")
    return "on the CPU, in fp32 no slower than OpenVINO" if provider == "CPU" else f"on the GPU, with {provider}"
