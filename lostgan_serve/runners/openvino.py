"""In-process inference with OpenVINO, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lostgan_serve.contract import Array, Tensors, input_specs
from lostgan_serve.errors import MissingExtraError, ModelError, require
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.runners.onnxrt import first_line, onnx_file, usable_cores


class OpenVinoRunner:
    """Runs an exported model.onnx.

    model: the file, or a model's folder in the repository, whose newest version is taken. threads: CPU threads for one
    batch; by default as many as this process may use. Every operation is computed in the type that it has in the file
    (bf16 only where the CPU has it). OpenVINO's own default, bf16 for all of an fp32 file on such a CPU, spoils
    geometry and norms too: 40 dB and 99.5% of the object map, where the file of `export --precision bf16` has 53 dB and
    99.97% and takes the same time. Raises ModelError where the model is missing, truncated or was not exported by
    lostgan-serve, and MissingExtraError without openvino.
    """

    concurrency = 1  # one batch already uses every thread

    def __init__(self, model: str | os.PathLike[str], threads: int | None = None) -> None:
        ov = require("openvino", "openvino")
        self._path = onnx_file(model)
        core = ov.Core()
        settings = {
            "EXECUTION_MODE_HINT": "ACCURACY",
            # all threads for one batch, and none tied to a core: that core may be busy with other work
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "ENABLE_CPU_PINNING": False,
        }
        try:
            graph = core.read_model(self._path)
            # The batch stays dynamic. A graph for each batch size takes 2 to 12% less time a batch, 0.7 s to compile
            # and the memory of another model.
            self._request = core.compile_model(graph, "CPU", settings).create_infer_request()
        except Exception as error:  # openvino raises RuntimeError, and others
            reason = first_line(error)
            raise ModelError(f"{self._path}: truncated or not an ONNX model; export it again ({reason})") from error
        self.manifest = Manifest.from_json(_metadata(graph), str(self._path))
        self._inputs = input_specs(self.manifest.slots)

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. Not for several threads at a time. Raises ModelError where the tensors do not fit the
        model."""
        for spec in self._inputs:  # openvino converts other dtypes without a word
            found = tensors[spec.name]
            if found.dtype != spec.dtype or found.shape[1:] != spec.dims:
                given = f"{spec.name}: {found.dtype} {found.shape[1:]} a layout, not {spec.dtype} {spec.dims}"
                raise ModelError(f"{self._path}: it cannot draw these layouts ({given})")
        try:
            self._request.infer({spec.name: tensors[spec.name] for spec in self._inputs}, share_inputs=True)
        except Exception as error:  # see above
            raise ModelError(f"{self._path}: it cannot draw these layouts ({first_line(error)})") from error
        return {name: self._request.get_tensor(name).data.copy() for name in outputs}

    def close(self) -> None:
        """See `Runner.close`."""
        del self._request


def computes_bf16() -> bool:
    """Whether openvino is installed, and this CPU has instructions for bf16 (AMX or AVX512-BF16)."""
    try:
        ov = require("openvino", "openvino")
    except MissingExtraError:
        return False
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _metadata(graph: Any) -> str:
    """The manifest's JSON in an ONNX file's metadata, which openvino files under "framework"; "" without one."""
    place = ["framework", METADATA_KEY]
    return str(graph.get_rt_info(place).astype(str)) if graph.has_rt_info(place) else ""
