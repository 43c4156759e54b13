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
from lostgan_serve.errors import DeviceError, ModelError, RequestError, require
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.model_folder import find_version
from lostgan_serve.runners.cores import Cores, callers, one_by_one, usable_cores
from lostgan_serve.runners.tensors import check_tensors, checked_outputs

TELEMETRY_OFF = ("ORT_DISABLE_TELEMETRY", "1")
"""The environment variable, and its value, with which ONNX Runtime sends nothing to its maker."""


class OnnxRunner:
    """Runs an exported model.onnx.

    model: the file, or a model's folder in the repository, whose newest version is taken. threads: CPU threads; by
    default as many as this process may use. providers: ONNX Runtime's execution providers, best first; by default CUDA
    where there is an NVIDIA driver, then the CPU. TensorRT's has to be asked for: it builds an engine for the shapes it
    meets, at every start (`TensorRTRunner` runs one that was built before). provider: the first of those that ONNX
    Runtime really uses. Raises ModelError where the model is missing, broken or not the one that export made,
    InputError where it may not be read, DeviceError for an unknown provider, and MissingExtraError without onnxruntime.
    """

    def __init__(
        self, model: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        ort = onnxruntime()
        version = find_version(model)
        version.check()
        path = self._path = version.onnx
        known = ort.get_available_providers()
        if unknown := [name for name in providers or () if name not in known]:
            raise DeviceError(f"providers: this onnxruntime has no {', '.join(unknown)}; it has {', '.join(known)}")
        threads, chosen = threads or usable_cores(), list(providers or _providers(known))
        session = open_session(path, threads, chosen)
        self.provider: str = session.get_providers()[0]
        metadata = session.get_modelmeta().custom_metadata_map
        self.manifest = Manifest.from_json(metadata.get(METADATA_KEY, ""), str(path))
        on_cpu = self.provider == "CPUExecutionProvider"
        self.concurrency = callers(threads) if on_cpu else 1
        infer = partial(_infer, path, session)
        self._cores = Cores(
            threads if on_cpu else 1,
            one_by_one(infer) if on_cpu else infer,
            lambda: partial(_infer, path, open_session(path, 1, chosen)),
        )

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. Raises RequestError where the tensors do not fit the model, and ModelError where
        what it computes does not."""
        check_tensors(self._path, self.manifest, tensors)
        arrays = self._cores.run(tensors, outputs)
        return checked_outputs(self._path, self.manifest, arrays, len(tensors["labels"]))

    def close(self) -> None:
        """See `Runner.close`."""
        self._cores.close()


def onnxruntime(extra: str = "runtime") -> Any:
    """The package. It is imported here alone: unless a variable forbids it, it calls its maker's collector of telemetry
    when it is loaded. extra: of lostgan-serve, that brings the package. Raises MissingExtraError."""
    os.environ.setdefault(*TELEMETRY_OFF)
    return require("onnxruntime", extra)


def open_session(path: Path, threads: int, providers: Sequence[str]) -> Any:
    """An onnxruntime.InferenceSession whose settings suit the generator. Raises ModelError and DeviceError."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"{path}: ONNX Runtime takes no path that is not UTF-8; rename its folders") from error
    ort = onnxruntime()
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
            raise DeviceError(
                f"{path}: ONNX Runtime cannot compute it here ({reason}); models in bf16 are for OpenVINO "
                "(--runner openvino) and TensorRT"
            ) from error
        if "allocat" in reason:
            raise DeviceError(f"{path}: there is not enough memory to load it ({reason})") from error
        raise ModelError(f"{path}: truncated or not an ONNX model; export it again ({reason})") from error


def _infer(path: Path, session: Any, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
    inputs = {name: tensors[name] for name in INPUT_NAMES}
    try:
        arrays = session.run(list(outputs), inputs)
    except Exception as error:  # see above
        raise RequestError(f"{path}: it cannot generate these layouts ({first_line(error)})") from error
    return dict(zip(outputs, arrays, strict=True))


def first_line(error: Exception) -> str:
    """The first line of a foreign library's error."""
    return str(error).strip().partition("\n")[0]


def _providers(known: Sequence[str]) -> list[str]:
    """CUDA where there is an NVIDIA driver (asked for without one, onnxruntime prints errors), else the CPU."""
    wanted = ["CPUExecutionProvider"]
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        wanted.insert(0, "CUDAExecutionProvider")
    return [name for name in wanted if name in known]
