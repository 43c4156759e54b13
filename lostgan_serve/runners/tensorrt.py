"""TensorRT engines: the note that stands beside each, what may load it, and inference on the GPU.

One code path for TensorRT (10.12 and later) and TensorRT-RTX, whose Python packages have the same classes. The bindings
and cuda-python are untyped: they are `Any` here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lostgan_serve.contract import INPUT_NAMES, MAX_BATCH, Array, Tensors, TensorSpec, input_specs, output_specs
from lostgan_serve.errors import DeviceError, ModelError, RequestError, require
from lostgan_serve.files import read_file, reading
from lostgan_serve.model_folder import ENGINE_FILE, ModelVersion, find_version, sha256
from lostgan_serve.runners.tensors import check_tensors

_MAX_NOTE_BYTES = 1 << 20

Target = Literal["tensorrt", "tensorrt-rtx"]
"""Which TensorRT an engine is for; also the extra of lostgan-serve that brings its Python package."""


class Profile(BaseModel):
    """The batch sizes that an engine takes: from `min` to `max`, and fastest at `opt`."""

    model_config = ConfigDict(frozen=True)

    min: int = Field(ge=1, le=MAX_BATCH)
    opt: int = Field(ge=1, le=MAX_BATCH)
    max: int = Field(ge=1, le=MAX_BATCH)


class Engine(BaseModel):
    """The note engine.json beside a model.plan.

    version: of the TensorRT that built it, the only one that loads it. gpu: the one it was built on; None for one built
    without. compute_capabilities: of the GPUs it is for, as in "8.6". precision: of the ONNX file, whose types decide.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    target: Target
    version: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    precision: str
    profile: Profile
    onnx_sha256: str
    plan_sha256: str

    @classmethod
    def load(cls, plan: Path) -> Engine:
        """The note of an engine. Raises ModelError where it or the engine is missing, or it is no such note, and
        InputError where they may not be read."""
        file = plan.with_name(ENGINE_FILE)
        for path in (plan, file):
            with reading(path):
                if not path.is_file():
                    raise ModelError(f"{path}: no such file; {_build_again('tensorrt')}")
        try:
            return cls.model_validate_json(read_file(file, _MAX_NOTE_BYTES))
        except ValidationError as error:
            raise ModelError(f"{file}: not what export writes beside an engine; {_build_again('tensorrt')}") from error

    def check(self, plan: Path, version: str, device: Device | None) -> None:
        """Raise ModelError where the engine's file is not the one that was built, and DeviceError where this version of
        TensorRT or this GPU cannot run it."""
        again = _build_again(self.target)
        if version != self.version:
            raise DeviceError(f"{plan}: built by {self.target} {self.version}, and {version} is installed; {again}")
        if device is None:
            raise DeviceError(f"{plan}: an engine needs an NVIDIA GPU with its driver, and there is none here")
        if not self._runs_on(device.compute_capability):
            capabilities = ", ".join(self.compute_capabilities)
            here = f"{device.name} has {device.compute_capability}"
            raise DeviceError(f"{plan}: built for compute capability {capabilities}, and {here}; {again}")
        with reading(plan):
            found = sha256(plan)
        if found != self.plan_sha256:
            raise ModelError(f"{plan}: truncated, or not the engine that {ENGINE_FILE} is about; {again}")

    def check_model(self, version: ModelVersion) -> None:
        """Raise ModelError unless the engine is of a version's model, and that is the one that export made. An engine
        may lie in a folder without its ONNX file."""
        with reading(version.onnx):
            if version.onnx.is_file():
                version.check()
        if version.manifest().onnx_sha256 not in (None, self.onnx_sha256):
            raise ModelError(f"{version.plan}: built of another model than the manifest's; {_build_again(self.target)}")

    def _runs_on(self, capability: str) -> bool:
        """TensorRT's engines run where they were built; TensorRT-RTX's are compiled for the GPU when they are loaded,
        so that one for an older GPU runs on a newer one."""
        if self.target == "tensorrt":
            return capability in self.compute_capabilities
        return any(_numbers(capability) >= _numbers(oldest) for oldest in self.compute_capabilities)


@dataclass(frozen=True)
class Device:
    """A GPU. compute_capability: as in "8.6"."""

    name: str
    compute_capability: str


def bindings(target: Target) -> Any:
    """The Python package of a target. Raises MissingExtraError."""
    if target == "tensorrt":
        return require("tensorrt", target)
    whole = importlib.util.find_spec("tensorrt_rtx") is not None  # NVIDIA's archive has it; the wheels, only bindings
    return require("tensorrt_rtx" if whole else "tensorrt_rtx_bindings", target)


def current_device(target: Target) -> Device | None:
    """The GPU in use, or None where there is none or no driver for it. Raises MissingExtraError."""
    cuda = require("cuda.bindings.runtime", target)
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        return None
    properties = _done(cuda, cuda.cudaGetDeviceProperties(_done(cuda, cuda.cudaGetDevice())))
    return Device(properties.name.decode().strip("\0"), f"{properties.major}.{properties.minor}")


def error_log(trt: Any) -> Any:
    """A logger for TensorRT that prints nothing and keeps what it reports as an error, one line each, in `errors`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


class TensorRTRunner:
    """Runs an engine on the current GPU.

    model: a model.plan, or a model's folder in the repository, whose newest version is taken. Raises ModelError where
    the engine is missing or broken, DeviceError where it was built for another TensorRT or GPU, InputError where it may
    not be read, and MissingExtraError without the target's package or cuda-bindings. Written by the documentation; past
    those refusals it has not been run, for want of a GPU.
    """

    concurrency = 1  # one batch has the GPU for itself

    def __init__(self, model: str | os.PathLike[str]) -> None:
        version = find_version(model)
        plan = version.plan
        engine = Engine.load(plan)
        trt = bindings(engine.target)
        engine.check(plan, trt.__version__, current_device(engine.target))
        engine.check_model(version)
        self._path, self._trt, self._log = plan, trt, error_log(trt)
        self.manifest = version.manifest()
        self._cuda = require("cuda.bindings.runtime", engine.target)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise self._failed("cannot be loaded")
        self._max_batch = engine.profile.max
        self._stream = _done(self._cuda, self._cuda.cudaStreamCreate())
        specs = (*input_specs(self.manifest.slots), *output_specs(self.manifest.slots, self.manifest.resolution))
        self._buffers = {spec.name: _Buffer(self._cuda, spec, self._max_batch) for spec in specs}
        self._launches: dict[int, _Launch] = {}

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. The first batch of each size takes longer: its CUDA graph is made. Not for several threads
        at a time. Raises RequestError where the tensors do not fit the engine, and DeviceError where CUDA fails."""
        check_tensors(self._path, self.manifest, tensors)
        batch = len(tensors[INPUT_NAMES[0]])
        if batch > self._max_batch:
            most = f"{batch} at a time; the engine takes {self._max_batch}"
            raise RequestError(f"{self._path}: it cannot generate these layouts ({most})")
        if batch not in self._launches:
            self._launches[batch] = self._prepare(batch)
        for name in INPUT_NAMES:
            self._buffers[name].upload(tensors[name], self._stream)
        if not self._launches[batch](self._stream):
            raise self._failed("cannot generate these layouts")
        for name in outputs:
            self._buffers[name].download(batch, self._stream)
        _done(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))
        return {name: self._buffers[name].host[:batch].copy() for name in outputs}

    def close(self) -> None:
        """See `Runner.close`."""
        for launch in self._launches.values():
            launch.free()
        for buffer in self._buffers.values():
            buffer.free()
        _done(self._cuda, self._cuda.cudaStreamDestroy(self._stream))
        del self._engine, self._runtime

    def _prepare(self, batch: int) -> _Launch:
        """An execution context of its own for the batch size, since a CUDA graph holds only while nothing changes its
        context. TensorRT-RTX makes the graph itself; TensorRT's is recorded after one run, which settles the shapes."""
        native = hasattr(self._trt, "CudaGraphStrategy")
        if native:
            settings = self._engine.create_runtime_config()
            settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(settings)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._failed(f"has no room on the GPU for batches of {batch}")
        for name, buffer in self._buffers.items():
            if name in INPUT_NAMES:
                context.set_input_shape(name, (batch, *buffer.spec.dims))
            context.set_tensor_address(name, buffer.device)
        launch = _Launch(self._cuda, context)
        if not native and launch(self._stream):
            launch.record(self._stream)
        return launch

    def _failed(self, what: str) -> ModelError:
        reason = self._log.errors[-1] if self._log.errors else "no reason given"
        return ModelError(f"{self._path}: the engine {what} ({reason})")


class _Buffer:
    """A tensor's place in pinned host memory and on the GPU, for the largest batch."""

    def __init__(self, cuda: Any, spec: TensorSpec, max_batch: int) -> None:
        self.spec, self._cuda = spec, cuda
        self._row = int(np.prod(spec.dims)) * spec.dtype.itemsize
        size = max_batch * self._row
        self.device = int(_done(cuda, cuda.cudaMalloc(size)))
        self._pinned = int(_done(cuda, cuda.cudaMallocHost(size)))
        memory = (ctypes.c_ubyte * size).from_address(self._pinned)
        self.host: Array = np.frombuffer(memoryview(memory), spec.dtype).reshape(max_batch, *spec.dims)

    def upload(self, array: Array, stream: Any) -> None:
        """Queue the copy of a batch to the GPU."""
        self.host[: len(array)] = array
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = len(array) * self._row
        _done(self._cuda, self._cuda.cudaMemcpyAsync(self.device, self._pinned, size, kind, stream))

    def download(self, batch: int, stream: Any) -> None:
        """Queue the copy of a batch from the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        size = batch * self._row
        _done(self._cuda, self._cuda.cudaMemcpyAsync(self._pinned, self.device, size, kind, stream))

    def free(self) -> None:
        """Give both places back."""
        _done(self._cuda, self._cuda.cudaFree(self.device))
        _done(self._cuda, self._cuda.cudaFreeHost(self._pinned))


class _Launch:
    """Queues an engine's work for one batch size: a CUDA graph where one was recorded, else call by call."""

    def __init__(self, cuda: Any, context: Any) -> None:
        self._cuda, self._context, self._graph = cuda, context, None

    def __call__(self, stream: Any) -> bool:
        if self._graph is None:
            return bool(self._context.execute_async_v3(int(stream)))
        _done(self._cuda, self._cuda.cudaGraphLaunch(self._graph, stream))
        return True

    def record(self, stream: Any) -> None:
        """Make the graph."""
        cuda = self._cuda
        _done(cuda, cuda.cudaStreamSynchronize(stream))
        _done(cuda, cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        queued = self._context.execute_async_v3(int(stream))
        graph = _done(cuda, cuda.cudaStreamEndCapture(stream))
        if queued:
            self._graph = _done(cuda, cuda.cudaGraphInstantiate(graph, 0))
        _done(cuda, cuda.cudaGraphDestroy(graph))

    def free(self) -> None:
        """Let go of the graph and its context."""
        if self._graph is not None:
            _done(self._cuda, self._cuda.cudaGraphExecDestroy(self._graph))
        self._graph = self._context = None


def _done(cuda: Any, result: Sequence[Any]) -> Any:
    """The values of a cuda-python call without its error code. Raises DeviceError where that tells of an error."""
    error, *values = result
    if error != cuda.cudaError_t.cudaSuccess:
        raise DeviceError(f"CUDA fails ({error.name}); look with nvidia-smi for what else uses the GPU's memory")
    return values[0] if values else None


def _build_again(target: Target) -> str:
    return f"build it here with: lostgan-serve export --target {target}"


def _numbers(capability: str) -> tuple[int, ...]:
    """Such as "8.6" -> (8, 6), which is less than (12, 0)."""
    return tuple(int(number) for number in capability.split("."))
