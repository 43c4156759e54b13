"""In-process inference with ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors
from lostgan_serve.errors import ModelError, require
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.runners.cores import Cores, usable_cores
from lostgan_serve.triton.repository import exported_models, newest_version


class OnnxRunner:
    """Runs an exported model.onnx.

    model: the file, or a model's folder in the repository, whose newest version is taken. threads: CPU threads; by
    default as many as this process may use. providers: ONNX Runtime's execution providers, best first; by default CUDA
    where there is an NVIDIA driver, then the CPU. TensorRT's has to be asked for: it builds an engine for the shapes it
    meets, at every start (`TensorRTRunner` runs one that was built before). provider: the first of those that ONNX
    Runtime really uses. Raises ModelError where the model is missing, truncated or was not exported by lostgan-serve,
    or a provider is unknown, and MissingExtraError without onnxruntime.
    """

    concurrency = 1  # one batch already uses every thread

    def __init__(
        self, model: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        ort = require("onnxruntime", "runtime")
        path = onnx_file(model)
        known = ort.get_available_providers()
        if unknown := [name for name in providers or () if name not in known]:
            raise ModelError(f"providers: this onnxruntime has no {', '.join(unknown)}; it has {', '.join(known)}")
        threads, chosen = threads or usable_cores(), list(providers or _providers(known))
        session = open_session(path, threads, chosen)
        self.provider: str = session.get_providers()[0]
        metadata = session.get_modelmeta().custom_metadata_map
        self.manifest = Manifest.from_json(metadata.get(METADATA_KEY, ""), str(path))
        on_cpu = self.provider == "CPUExecutionProvider"
        self._cores = Cores(
            threads if on_cpu else 1,
            partial(_draw, path, session),
            lambda: partial(_draw, path, open_session(path, 1, chosen)),
        )

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. Raises ModelError where the tensors do not fit the model."""
        return self._cores.run(tensors, outputs)

    def close(self) -> None:
        """See `Runner.close`."""
        self._cores.close()


def open_session(path: Path, threads: int, providers: Sequence[str]) -> Any:
    """An onnxruntime.InferenceSession whose settings suit the generator. Raises ModelError."""
    ort = require("onnxruntime", "runtime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    # On cores shared with other work, threads that spin while they wait made a batch take 1.4 to 2 times as long.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It plans memory anew for every batch size: no faster, and 530 MB in place of 340 (v2-128, batches of 1 to 8).
    # The arena stays: without it a batch of 4 takes 6 to 25% more CPU time.
    options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors share no base class
        reason = first_line(error)
        if "NOT_IMPLEMENTED" in reason:
            raise ModelError(
                f"{path}: ONNX Runtime cannot compute it here ({reason}); models in bf16 are for OpenVINO "
                "(--runner openvino) and TensorRT"
            ) from error
        raise ModelError(f"{path}: truncated or not an ONNX model; export it again ({reason})") from error


def _draw(path: Path, session: Any, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
    inputs = {name: tensors[name] for name in INPUT_NAMES}
    try:
        arrays = session.run(list(outputs), inputs)
    except Exception as error:  # see above
        raise ModelError(f"{path}: it cannot draw these layouts ({first_line(error)})") from error
    return dict(zip(outputs, arrays, strict=True))


def onnx_file(model: str | os.PathLike[str]) -> Path:
    """The model.onnx that `model` stands for: itself, or a model's folder, whose newest version is taken.

    Raises ModelError where there is none.
    """
    path = _newest(Path(model)) / "model.onnx" if Path(model).is_dir() else Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: no such model; make one with: lostgan-serve export")
    return path


def first_line(error: Exception) -> str:
    """What a foreign library says in the first line of an error."""
    return str(error).strip().partition("\n")[0]


def _newest(folder: Path) -> Path:
    """A model's newest version. Raises ModelError, which names the models where `folder` is a whole repository."""
    try:
        return newest_version(folder)
    except ModelError as error:
        models: list[str] = []
        with suppress(ModelError):
            models = exported_models(folder)
        if not models:
            raise
        names = ", ".join(str(folder / name) for name in models)
        raise ModelError(f"{folder}: a model repository, not a model; give one of its models: {names}") from error


def _providers(known: Sequence[str]) -> list[str]:
    """CUDA where there is an NVIDIA driver (asked for without one, onnxruntime prints errors), else the CPU."""
    wanted = ["CPUExecutionProvider"]
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        wanted.insert(0, "CUDAExecutionProvider")
    return [name for name in wanted if name in known]
