"""In-process inference with ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors
from lostgan_serve.errors import ModelError, require
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.triton.repository import exported_models, newest_version


class OnnxRunner:
    """Runs an exported model.onnx.

    model: the file, or a model's folder in the repository, whose newest version is taken. threads: CPU threads for one
    batch; by default as many as this process may use. Raises ModelError where the model is missing, truncated or was
    not exported by lostgan-serve, and MissingExtraError without onnxruntime.
    """

    concurrency = 1  # one batch already uses every thread

    def __init__(self, model: str | os.PathLike[str], threads: int | None = None) -> None:
        ort = require("onnxruntime", "runtime")
        path = _newest(Path(model)) / "model.onnx" if Path(model).is_dir() else Path(model)
        if not path.is_file():
            raise ModelError(f"{path}: no such model; make one with: lostgan-serve export")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3  # errors only
        try:
            self._session = ort.InferenceSession(path, options, providers=_providers(ort))
        except Exception as error:  # onnxruntime's errors share no base class
            reason = _first_line(error)
            raise ModelError(f"{path}: truncated or not an ONNX model; export it again ({reason})") from error
        self._path = path
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.manifest = Manifest.from_json(metadata.get(METADATA_KEY, ""), str(path))

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. Raises ModelError where the tensors do not fit the model."""
        session, inputs = self._session, {name: tensors[name] for name in INPUT_NAMES}
        try:
            arrays = session.run(list(outputs), inputs)
        except Exception as error:  # see above
            raise ModelError(f"{self._path}: it cannot draw these layouts ({_first_line(error)})") from error
        return dict(zip(outputs, arrays, strict=True))

    def close(self) -> None:
        """See `Runner.close`."""
        del self._session


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _providers(ort: ModuleType) -> list[str]:
    """CUDA where there is an NVIDIA driver (asked for without one, onnxruntime prints errors), else the CPU."""
    wanted = ["CPUExecutionProvider"]
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        wanted.insert(0, "CUDAExecutionProvider")
    return [name for name in wanted if name in ort.get_available_providers()]
