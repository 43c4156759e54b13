"""The model that Triton's Python backend runs: ONNX Runtime or OpenVINO inside the server, for a server that has no
backend for them.

Triton calls `execute` with all requests of a batch at once; it has checked names, dtypes and shapes against the
configuration, and it drops the outputs that a client did not ask for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lostgan_serve.choices import RUNNER_VARIABLE
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, Array, concatenated, fault
from lostgan_serve.model_folder import ONNX_FILE, ModelFolder
from lostgan_serve.progress import Progress
from lostgan_serve.runners import AUTO, open_runner
from lostgan_serve.triton.configuration import check_configuration, check_loaded_configuration
from lostgan_serve.triton.digests import DIGEST, digests


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend for the methods and when they are called."""

    def initialize(self, args: dict[str, str]) -> None:
        """args: Triton's; `model_repository` is this model's folder. Raises LostganError where the model is not the one
        that export made, or a configuration is of another."""
        import triton_python_backend_utils as pb_utils  # exists in the backend's process only

        _close_shared_memory_to_others()
        self._pb = pb_utils
        folder = ModelFolder(Path(args["model_repository"]))
        model = folder.path / args["model_version"] / ONNX_FILE
        self._runner = open_runner(os.environ.get(RUNNER_VARIABLE) or AUTO, model, _ServerLog(pb_utils.Logger))
        manifest = self._runner.manifest
        check_configuration(folder, manifest)
        if loaded := args.get("model_config"):  # by Triton always
            check_loaded_configuration(loaded, f"{folder.path}: the configuration that is loaded", manifest)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Infer all valid requests as one batch. A request that is not valid gets an error of its own."""
        manifest = self._runner.manifest
        responses: list[Any] = [None] * len(requests)
        inputs: dict[int, dict[str, Array]] = {}
        for i, request in enumerate(requests):
            tensors = {name: self._input(request, name) for name in INPUT_NAMES}
            if reason := fault(tensors, manifest.slots, len(manifest.vocabulary)):
                error = self._pb.TritonError(reason, self._pb.TritonError.INVALID_ARG)
                responses[i] = self._pb.InferenceResponse(error=error)
            else:
                inputs[i] = tensors
        if not inputs:
            return responses

        wanted = {i: requests[i].requested_output_names() for i in inputs}
        union = [name for name in OUTPUT_NAMES if any(name in names for names in wanted.values())]
        batch = concatenated(list(inputs.values()))
        arrays = {**self._runner.run(batch, union), DIGEST.name: digests(batch)}
        start = 0
        for i, tensors in inputs.items():
            rows = slice(start, start + len(tensors["labels"]))
            start = rows.stop
            # rows of a contiguous array are contiguous: no copy until Triton's own
            outputs = [self._pb.Tensor(name, arrays[name][rows]) for name in wanted[i]]
            responses[i] = self._pb.InferenceResponse(output_tensors=outputs)
        return responses

    def finalize(self) -> None:
        """Called once, when the model is unloaded."""
        self._runner.close()

    def _input(self, request: Any, name: str) -> Array:
        array: Array = self._pb.get_input_tensor_by_name(request, name).as_numpy()
        return array


class _ServerLog(Progress):
    """Tells the server's log. logger: the backend's."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def note(self, line: str) -> None:
        self._logger.log_info(line)


def _close_shared_memory_to_others() -> None:
    """Let this user alone read the tensors that Triton passes to this process. It makes their shared memory readable by
    everybody, whatever the umask."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor that lists the folder is closed by now
            if link.is_file() and link.readlink().is_relative_to("/dev/shm"):
                link.chmod(0o600)
