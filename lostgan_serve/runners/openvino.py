"""In-process inference with OpenVINO, on the CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors, concatenated, input_specs, rows
from lostgan_serve.errors import MissingExtraError, ModelError, RequestError, require
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.model_folder import find_version
from lostgan_serve.runners.cores import Cores, Infer, callers, usable_cores
from lostgan_serve.runners.onnxrt import first_line
from lostgan_serve.runners.tensors import check_tensors, checked_outputs


class OpenVinoRunner:
    """Runs an exported model.onnx.

    model: the file, or a model's folder in the repository, whose newest version is taken. threads: CPU threads; by
    default as many as this process may use. Every operation is computed in the type that it has in the file (bf16 only
    where the CPU has it). OpenVINO's own default, bf16 for all of an fp32 file on such a CPU, spoils geometry and norms
    too: 40 dB and 99.5% of the object map, where the file of `export --precision bf16` has 53 dB and 99.97% and takes
    the same time. Raises ModelError where the model is missing, broken or not the one that export made, InputError
    where it may not be read, and MissingExtraError without openvino.
    """

    def __init__(self, model: str | os.PathLike[str], threads: int | None = None) -> None:
        ov = openvino()
        version = find_version(model)
        version.check()
        self._path = version.onnx
        core, threads = ov.Core(), threads or usable_cores()
        self.concurrency = callers(threads)
        try:
            graph = core.read_model(self._path)
        except Exception as error:  # openvino raises RuntimeError, and others
            reason = first_line(error)
            raise ModelError(f"{self._path}: truncated or not an ONNX model; export it again ({reason})") from error
        self.manifest = Manifest.from_json(_metadata(graph), str(self._path))
        try:
            # One layout at a time: where the batch is not known before, a layout takes 1.06 to 1.15 times as long.
            graph.reshape({spec.name: [1, *spec.dims] for spec in input_specs(self.manifest.slots)})
            compiled = partial(_compiled, core, graph, self._path)
            together = compiled(self.concurrency, self.concurrency * threads)
            self._cores = Cores(threads, together, partial(compiled, threads, threads))
        except Exception as error:  # see above
            raise ModelError(f"{self._path}: OpenVINO cannot run it; export it again ({first_line(error)})") from error

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. Raises RequestError where the tensors do not fit the model, and ModelError where
        what it computes does not."""
        check_tensors(self._path, self.manifest, tensors)  # openvino converts other dtypes without a word
        arrays = self._cores.run({name: tensors[name] for name in INPUT_NAMES}, outputs)
        return checked_outputs(self._path, self.manifest, arrays, len(tensors["labels"]))

    def close(self) -> None:
        """See `Runner.close`."""
        self._cores.close()


def _compiled(core: Any, graph: Any, path: Path, streams: int, threads: int) -> Infer:
    """Compile a function that generates a batch layout by layout. `streams` callers at a time share the threads."""
    settings = {
        "EXECUTION_MODE_HINT": "ACCURACY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the core of a thread may be busy with other work
    }
    model = core.compile_model(graph, "CPU", settings)
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(streams):
        free.put(model.create_infer_request())

    def infer(tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        request, done = free.get(), []
        try:
            for k in range(len(tensors["labels"])):
                # in a thread of openvino's own, which lives as long as the model
                request.start_async(rows(tensors, k, k + 1), share_inputs=True)
                request.wait()
                done.append({name: request.get_tensor(name).data.copy() for name in outputs})
        except Exception as error:  # see above
            raise RequestError(f"{path}: it cannot generate these layouts ({first_line(error)})") from error
        finally:
            free.put(request)
        return concatenated(done)

    return infer


def openvino() -> Any:
    """The package. It is imported here alone: where it finds its telemetry, it sends its maker an event. Raises
    MissingExtraError."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # which makes its import fail
    ov = require("openvino", "openvino")
    # Two threads that make their first tensors at a time may wait for one another for ever: one has the interpreter's
    # lock, the other that of a static variable of the binding's, which is made now.
    with _FIRST_TENSORS:
        for dtype in (np.int64, np.float32, np.uint8):
            for shared in (True, False):
                ov.Tensor(np.zeros(1, dtype), shared_memory=shared).data.copy()
    return ov


_FIRST_TENSORS = Lock()


def computes_bf16() -> bool:
    """Whether openvino is installed, and this CPU has instructions for bf16 (AMX or AVX512-BF16)."""
    try:
        ov = openvino()
    except MissingExtraError:
        return False
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _metadata(graph: Any) -> str:
    """The manifest's JSON in an ONNX file's metadata, which openvino files under "framework"; "" without one."""
    place = ["framework", METADATA_KEY]
    return str(graph.get_rt_info(place).astype(str)) if graph.has_rt_info(place) else ""
