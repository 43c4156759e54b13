"""model.onnx -> model.plan: a TensorRT engine, and engine.json beside it, which says what may load it.

The ONNX file's own types decide the precision (networks are strongly typed), so building has no precision to choose.
TensorRT-RTX needs no GPU to build.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from lostgan_serve.contract import input_specs
from lostgan_serve.errors import DeviceError, ModelError
from lostgan_serve.files import write_file
from lostgan_serve.manifest import Manifest
from lostgan_serve.model_folder import ModelVersion, sha256
from lostgan_serve.progress import SILENT, Advance, Progress
from lostgan_serve.runners.tensorrt import Engine, Profile, Target, bindings, current_device, error_log

WORKSPACE_BYTES = 2 << 30
"""The most GPU memory that a layer may use for itself."""

RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""Targets of TensorRT-RTX: everything from Ampere on. Turing would have to have an engine of its own."""


def build_engine(
    version: ModelVersion,
    manifest: Manifest,
    target: Target,
    timing_cache: Path | None = None,
    progress: Progress = SILENT,
) -> Engine:
    """Build the engine of an exported ONNX file, and write it and its note beside that file.

    manifest: the version's. timing_cache: a file in which TensorRT keeps what it measured, for builds to come;
    TensorRT-RTX measures nothing. The note is written first: a plan never stands without it. Raises ModelError where
    TensorRT cannot take the file, DeviceError where it needs a GPU and there is none, OutputError where nothing can be
    written, and MissingExtraError without the target's package.
    """
    trt, device = bindings(target), current_device(target)
    if target == "tensorrt" and device is None:
        raise DeviceError(
            f"{version.onnx}: TensorRT measures on the GPU that it builds for, and there is none here; --target "
            "tensorrt-rtx builds without"
        )
    capabilities = RTX_CAPABILITIES if device is None or target == "tensorrt-rtx" else (device.compute_capability,)
    log = error_log(trt)
    builder = trt.Builder(log)
    config, profile = _configuration(trt, builder, manifest)
    if target == "tensorrt-rtx":
        _build_for(trt, config, capabilities)
    elif timing_cache is not None:
        attach_timing_cache(config, timing_cache)
    network = _network(trt, builder, log, version.onnx)
    with progress.count(f"build a {target} engine", 1.0) as advance:
        plan = _build(trt, builder, config, network, version.onnx, log, advance)
        advance(1.0, "")
    if target == "tensorrt" and timing_cache is not None:
        write_file(timing_cache, bytes(config.get_timing_cache().serialize()))
    engine = Engine(
        target=target,
        version=trt.__version__,
        gpu=device.name if device else None,
        compute_capabilities=capabilities,
        precision=manifest.precision,
        profile=profile,
        onnx_sha256=sha256(version.onnx),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
    )
    write_file(version.engine_note, (engine.model_dump_json(indent=1) + "\n").encode())
    write_file(version.plan, plan)
    return engine


def attach_timing_cache(config: Any, path: Path) -> None:
    """Have a build use the measurements in a file, and add to them. A file that is missing, broken or of another GPU
    or version counts for nothing."""
    kept = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _configuration(trt: Any, builder: Any, manifest: Manifest) -> tuple[Any, Profile]:
    """Settings of every build, and the batch sizes that it is for."""
    sizes = Profile(min=1, opt=max(1, manifest.max_batch // 2), max=manifest.max_batch)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for spec in input_specs(manifest.slots):
        profile.set_shape(spec.name, *((size, *spec.dims) for size in (sizes.min, sizes.opt, sizes.max)))
    config.add_optimization_profile(profile)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa, the default, are not fp32; fp16 is there for speed
    return config, sizes


def _build_for(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)


def _network(trt: Any, builder: Any, log: Any, model: Path) -> Any:
    """The network of an ONNX file. Raises ModelError naming the file and the operation that TensorRT does not take."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        error = parser.get_error(0)
        where = f"{error.node_operator()} ({error.node_name()})" if error.node_operator() else "the file"
        raise ModelError(f"{model}: TensorRT {trt.__version__} does not take {where}: {' '.join(error.desc().split())}")
    return network


def _build(trt: Any, builder: Any, config: Any, network: Any, model: Path, log: Any, advance: Advance) -> bytes:
    """The serialized engine. It is built in another thread, so that Ctrl-C and SIGTERM arrive in this one; they stop
    the build at its next step. Raises ModelError."""
    monitor = _monitor(trt, advance)
    config.progress_monitor = monitor
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(builder.build_serialized_network, network, config)
        try:
            plan = future.result()
        except BaseException:
            monitor.stopped = True
            while not future.done():  # a second Ctrl-C, too: Python cannot exit while TensorRT calls back
                with suppress(KeyboardInterrupt, SystemExit):
                    wait([future])
            raise
    if plan is None:
        reason = log.errors[0] if log.errors else "no reason given"
        raise ModelError(f"{model}: TensorRT {trt.__version__} cannot build an engine of this file: {reason}")
    return bytes(plan)


def _monitor(trt: Any, advance: Advance) -> Any:
    """Make TensorRT's monitor of a build. It tells `advance` how far the build is, from 0 to 1, and its phase. Once its
    `stopped` is set the build ends."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._open: dict[str, tuple[float, float, int]] = {}  # where a phase starts, its steps' width, steps done
            self._furthest = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            start, width, done = self._open.get(parent or "", (0.0, 1.0, 0))
            self._open[name] = (start + done * width, width / max(steps, 1), 0)
            self._tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            start, width, _ = self._open.get(name, (0.0, 0.0, 0))
            self._open[name] = (start, width, step + 1)
            self._tell(name)
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            self._open.pop(name, None)

        def _tell(self, name: str) -> None:
            start, width, done = self._open[name]
            self._furthest = max(self._furthest, min(start + done * width, 1.0))
            advance(self._furthest, name)

    return Monitor()
