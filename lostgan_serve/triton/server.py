"""Running tritonserver on a model repository, for a block of Python or until a signal, and leaving nothing behind."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.choices import GRPC_PORT, HTTP_PORT, METRICS_PORT
from lostgan_serve.errors import ModelError, ServerError
from lostgan_serve.model_folder import check_model_name, exported_models
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.triton.addresses import LOOPBACK, find_addresses
from lostgan_serve.triton.installation import find_tritonserver
from lostgan_serve.triton.process import FaultError, Launch, StopRequest, TritonProcess
from lostgan_serve.triton.server_folder import server_folder, writing_shared_memory

ADMIN_KEY_VARIABLE = "LOSTGAN_SERVE_ADMIN_KEY"

_RESTARTS, _RESTARTS_WITHIN_S = 3, 300.0


@dataclass(frozen=True)
class Endpoints:
    """Where a running server answers. http, grpc, metrics: host:port. pid: of the tritonserver process."""

    http: str
    grpc: str
    metrics: str
    models: tuple[str, ...]
    admin_key: str
    pid: int


@contextmanager
def running_server(
    repository: Path,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    host: str = LOOPBACK,
    progress: Progress = SILENT,
) -> Iterator[Endpoints]:
    """A server that is ready when the block begins and gone when it ends. A port of 0 stands for a free one. The server
    ends with the thread that entered the block, too. progress: is told what the server warns of.

    Raises ModelError where no model is exported or one is not as it was exported, InputError where one cannot be read,
    MissingExtraError without any tritonserver, and ServerError where host or port cannot be used, shared memory cannot
    be written, this Python does not suit the server, or the server does not come up.
    """
    with (
        _prepared(repository, (http_port, grpc_port, metrics_port), host) as launch,
        TritonProcess(launch, progress) as process,
    ):
        process.wait_until_ready(StopRequest())
        yield _endpoints(launch, process)


def serve(
    repository: Path,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    metrics_port: int = METRICS_PORT,
    host: str = LOOPBACK,
    *,
    on_ready: Callable[[Endpoints], None],
    progress: Progress = SILENT,
    verbose: bool = False,
) -> int:
    """Serve every exported model until SIGINT or SIGTERM; call it from the main thread.

    A port of 0 stands for a free one. on_ready: is called when the server answers for the first time. progress: is told
    of loaded models and of what the server warns of; with verbose, of every line of its log. A server with a dead or
    stopped process is started again, at the same addresses.

    Returns the server's exit code: 0 after a clean stop, 128 + n where signal n ended it. Raises what `running_server`
    does, and ServerError where the server had to be started again too often.
    """
    faults: deque[float] = deque(maxlen=_RESTARTS + 1)
    with _stopped_by_signals() as stop, _prepared(repository, (http_port, grpc_port, metrics_port), host) as launch:
        while True:
            began = time.monotonic()
            try:
                with TritonProcess(launch, progress, verbose=verbose) as process:
                    if not process.wait_until_ready(stop):
                        return 0
                    if faults:
                        progress.note(f"tritonserver is ready again after {time.monotonic() - began:.1f} s")
                    else:
                        on_ready(_endpoints(launch, process))
                    return process.wait(stop)
            except FaultError as fault:
                faults.append(time.monotonic())
                if len(faults) > _RESTARTS and faults[-1] - faults[0] < _RESTARTS_WITHIN_S:
                    raise ServerError(
                        f"{fault}; tritonserver was started again {_RESTARTS} times within "
                        f"{_RESTARTS_WITHIN_S / 60:.0f} minutes, and no more: see its log with --verbose"
                    ) from fault
                progress.note(f"{fault}; starting tritonserver again")


@contextmanager
def _prepared(repository: Path, ports: tuple[int, int, int], host: str) -> Iterator[Launch]:
    """All that starts of a server take. What they leave is removed when the block ends."""
    models = _checked_models(repository)
    addresses = find_addresses(host, *ports)
    admin_key = os.environ.get(ADMIN_KEY_VARIABLE) or secrets.token_urlsafe(24)
    with server_folder() as folder:
        launch = Launch(repository, models, addresses, admin_key, find_tritonserver(folder.path), folder)
        with writing_shared_memory():
            launch.link.symlink_to(repository.resolve())
        yield launch


def _checked_models(repository: Path) -> tuple[str, ...]:
    """The names of the exported models. Raises ModelError where Triton would not serve one as it was exported."""
    models = exported_models(repository)
    for model in models:
        try:
            check_model_name(model.name)
        except ModelError as error:
            raise ModelError(
                f"{model.path}: a model cannot be served under this name; export it again with another --name, or move "
                "it out of the repository"
            ) from error
        model.check()
    return tuple(model.name for model in models)


def _endpoints(launch: Launch, process: TritonProcess) -> Endpoints:
    addresses = launch.addresses
    return Endpoints(
        http=addresses.endpoint(addresses.http_port),
        grpc=addresses.endpoint(addresses.grpc_port),
        metrics=addresses.endpoint(addresses.metrics_port),
        models=launch.models,
        admin_key=launch.admin_key,
        pid=process.pid,
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
