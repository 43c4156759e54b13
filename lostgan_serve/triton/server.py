"""Running tritonserver on a model repository, for a block of Python or until a signal, and leaving nothing behind."""

from __future__ import annotations

import math
import os
import resource
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.contract import input_specs
from lostgan_serve.errors import ModelError, ServerError
from lostgan_serve.manifest import Manifest
from lostgan_serve.model_folder import check_model_name, exported_models
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.triton.addresses import find_addresses
from lostgan_serve.triton.configuration import check_configuration
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.front_door import FrontDoor
from lostgan_serve.triton.gateway.settings import Settings, Status
from lostgan_serve.triton.installation import find_tritonserver
from lostgan_serve.triton.probe import Probe
from lostgan_serve.triton.process import FaultError, Launch, StopRequest, TritonProcess
from lostgan_serve.triton.server_folder import server_folder, writing_shared_memory

ADMIN_KEY_VARIABLE = "LOSTGAN_SERVE_ADMIN_KEY"

_RESTARTS, _RESTARTS_WITHIN_S = 3, 300.0
_LEAST_FILES = 256


@dataclass(frozen=True)
class Endpoints:
    """Where a running server answers.

    http, grpc, metrics: host:port. admin: where tritonserver itself answers gRPC, the calls that load models included.
    admin_key: for these calls, of a direct server. pid: of the tritonserver process. tls: whether all is encrypted.
    """

    http: str
    grpc: str
    metrics: str
    models: tuple[str, ...]
    admin: str
    admin_key: str
    pid: int
    tls: bool


_LOCAL = Exposure()


@contextmanager
def running_server(repository: Path, exposure: Exposure = _LOCAL, progress: Progress = SILENT) -> Iterator[Endpoints]:
    """A server that is ready when the block begins and gone when it ends. The server ends with the thread that entered
    the block, too. progress: is told what the server warns of.

    Raises ModelError where no model is exported or one is not as it was exported, InputError where one cannot be read,
    MissingExtraError without any tritonserver, and ServerError where host, ports or certificate cannot be used, shared
    memory cannot be written, this Python does not suit the server, or the server does not come up.
    """
    with _prepared(repository, exposure, progress) as (launch, door), TritonProcess(launch, progress) as process:
        process.wait_until_ready(StopRequest())
        _tell(door, Status(True, ""))
        yield _endpoints(launch, process)
        _tell(door, _STOPPING)


def serve(
    repository: Path,
    exposure: Exposure = _LOCAL,
    *,
    on_ready: Callable[[Endpoints], None],
    progress: Progress = SILENT,
    verbose: bool = False,
) -> int:
    """Serve every exported model until SIGINT or SIGTERM; call it from the main thread.

    on_ready: is called when the server answers for the first time. progress: is told of loaded models and of what the
    server warns of; with verbose, of every line of its log. A server with a dead or stopped process, or a model that
    gives no answers or wrong ones, is started again, at the same addresses.

    Returns the server's exit code, 0 after a clean stop. Raises what `running_server` does, and ServerError where the
    server had to be started again too often.
    """
    faults = _Faults()
    with _stopped_by_signals() as stop, _prepared(repository, exposure, progress) as (launch, door):
        while True:
            began = time.monotonic()
            try:
                with TritonProcess(launch, progress, verbose=verbose) as process:
                    if not process.wait_until_ready(stop):
                        return 0
                    _tell(door, Status(True, "", faults.count))
                    if faults.count:
                        progress.note(f"tritonserver is ready again after {time.monotonic() - began:.1f} s")
                    else:
                        on_ready(_endpoints(launch, process))
                    with closing(Probe(launch.target, launch.manifests)) as probe:
                        code = process.wait(stop, _Check(door, probe, faults, progress))
                    _tell(door, _STOPPING)
                    return code
            except FaultError as fault:
                _tell(door, Status(False, f"{fault}; it is started again", faults.count + 1))
                faults.add(str(fault), "tritonserver", progress)


_STOPPING = Status(False, "the server is stopping")


def _tell(door: FrontDoor | None, status: Status) -> None:
    if door is not None:
        door.tell(status)


class _Faults:
    """Faults of a server, each of which costs a start; too many of them in a short time end it."""

    def __init__(self) -> None:
        self.count = 0
        self._times: deque[float] = deque(maxlen=_RESTARTS + 1)

    def add(self, fault: str, part: str, progress: Progress) -> None:
        """Count a fault, and tell it. part: that is started again. Raises ServerError where it is one too many."""
        self.count += 1
        self._times.append(time.monotonic())
        if len(self._times) > _RESTARTS and self._times[-1] - self._times[0] < _RESTARTS_WITHIN_S:
            raise ServerError(
                f"{fault}; the server was started again {_RESTARTS} times within "
                f"{_RESTARTS_WITHIN_S / 60:.0f} minutes, and no more: see the log with --verbose"
            )
        progress.note(f"{fault}; starting {part} again")


class _Check:
    """What is looked at while tritonserver runs: the models' answers, and the gateway, which is told of them."""

    def __init__(self, door: FrontDoor | None, probe: Probe, faults: _Faults, progress: Progress) -> None:
        self._door, self._probe, self._faults, self._progress = door, probe, faults, progress
        self._told: Status | None = None

    def __call__(self) -> str | None:
        """Describe a fault of a model; None without one. A gateway that ended is started again."""
        status = Status(True, "", self._faults.count, dict(self._probe.taken_s))
        if self._door is not None:
            if fault := self._door.fault():
                self._faults.add(fault, "it", self._progress)
                self._door.start_again()
            if status != self._told:
                self._door.tell(status)
                self._told = status
        return self._probe.fault()


@contextmanager
def _prepared(repository: Path, exposure: Exposure, progress: Progress) -> Iterator[tuple[Launch, FrontDoor | None]]:
    """All that starts of a server take, and the gateway unless the server is direct. Nothing is left of either when the
    block ends."""
    manifests = _checked_models(repository)
    _check_files()
    addresses = find_addresses(exposure.host, *exposure.ports)
    admin_key = os.environ.get(ADMIN_KEY_VARIABLE) or secrets.token_urlsafe(24)
    exposure.check(addresses.ip, progress)
    with server_folder() as folder, ExitStack() as stack:
        installation = find_tritonserver(folder.path)
        launch = Launch(repository, manifests, addresses, admin_key, installation, folder, exposure)
        with writing_shared_memory():
            launch.link.symlink_to(repository.resolve())
        door = None
        if not exposure.direct:
            door = stack.enter_context(FrontDoor(_settings(launch), progress))
        yield launch, door


def _check_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < _LEAST_FILES:
        raise ServerError(
            f"this process may open {most} files at a time, connections included, and a server needs {_LEAST_FILES}; "
            f"allow more with: ulimit -n {_LEAST_FILES}"
        )


def _settings(launch: Launch) -> Settings:
    """Those of the gateway."""
    largest = max(
        manifest.max_batch * sum(math.prod(spec.dims) * spec.dtype.itemsize for spec in input_specs(manifest.slots))
        for manifest in launch.manifests.values()
    )
    ports = launch.addresses.http_port, launch.addresses.grpc_port, launch.addresses.metrics_port
    cert, key = launch.exposure.certificates.cert, launch.exposure.certificates.key
    files = (str(cert), str(key or cert)) if cert else (None, None)
    return Settings(str(launch.folder.path), launch.addresses.ip, *ports, largest, *files)


def _checked_models(repository: Path) -> dict[str, Manifest]:
    """The manifests of the exported models, by name. Raises ModelError where Triton would not serve one as it was
    exported."""
    manifests = {}
    for model in exported_models(repository):
        try:
            check_model_name(model.name)
        except ModelError as error:
            raise ModelError(
                f"{model.path}: a model cannot be served under this name; export it again with another --name, or move "
                "it out of the repository"
            ) from error
        model.check()
        manifests[model.name] = model.newest().manifest()
        check_configuration(model, manifests[model.name])
    return manifests


def _endpoints(launch: Launch, process: TritonProcess) -> Endpoints:
    addresses = launch.addresses
    return Endpoints(
        http=addresses.endpoint(addresses.http_port),
        grpc=addresses.endpoint(addresses.grpc_port),
        metrics=addresses.endpoint(addresses.metrics_port),
        models=tuple(launch.manifests),
        admin=launch.target,
        admin_key=launch.admin_key,
        pid=process.pid,
        tls=launch.exposure.certificates.cert is not None,
    )


@contextmanager
def _stopped_by_signals() -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM for a request to stop while the block runs."""
    stop = StopRequest()

    def ask(*_: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
