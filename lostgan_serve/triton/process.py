"""The process of a tritonserver: starting it, waiting until it is ready, and stopping it with all of its children."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import ServerError, require
from lostgan_serve.manifest import Manifest
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import TELEMETRY_OFF
from lostgan_serve.triton.addresses import Addresses
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.gateway.backend import SERVICE, TRUE
from lostgan_serve.triton.gateway.settings import Sockets
from lostgan_serve.triton.installation import Installation
from lostgan_serve.triton.launcher import launched
from lostgan_serve.triton.server_folder import ServerFolder
from lostgan_serve.triton.server_log import ServerLog
from lostgan_serve.triton.watch import FaultWatch, StallWatch

ADMIN_APIS = "model-repository,shared-memory,trace,logging"
ADMIN_HEADER = "lostgan-serve-admin-key"
"""Header with the admin key: under this name in HTTP, after `triton-grpc-protocol-` in gRPC."""

_STOP_S = 40.0  # tritonserver itself gives requests in flight 30 s
_POLL_S = 0.1
_HEALTH_S = 5.0
_READY = SERVICE + "ServerReady"
_PAUSES = ("initial", "min", "max")


class StopRequest:
    """Whether the server has been asked to stop."""

    asked = False


class FaultError(ServerError):
    """A server that has to be started again: it runs and does not work."""


@dataclass(frozen=True)
class Launch:
    """All that a start of a server takes. A second start with the same takes the place of the first.

    manifests: of the models, by name. exposure: where it is direct, tritonserver itself listens at the addresses, and
    its admin APIs need the key. Otherwise it listens at Unix sockets in its folder, which nobody else may enter.
    """

    repository: Path
    manifests: Mapping[str, Manifest]
    addresses: Addresses
    admin_key: str
    installation: Installation
    folder: ServerFolder
    exposure: Exposure

    def command(self) -> list[str]:
        """The command line of tritonserver."""
        return [
            str(self.installation.executable),
            *self.installation.options,
            f"--model-repository={self.link}",
            "--model-control-mode=explicit",  # a model that is configured but not exported is no error
            *(f"--load-model={name}" for name in self.manifests),
            *(self._public() if self.exposure.direct else self.sockets.options()),
            f"--backend-config=python,shm-region-prefix-name={self.folder.segment_prefix}",
        ]

    def _public(self) -> list[str]:
        key = f"{ADMIN_APIS}:{ADMIN_HEADER}={self.admin_key}"
        return [*self.addresses.options(), f"--http-restricted-api={key}", f"--grpc-restricted-protocol={key}"]

    @property
    def sockets(self) -> Sockets:
        """Where tritonserver listens unless it is exposed directly."""
        return Sockets(self.folder.path)

    @property
    def target(self) -> str:
        """Where tritonserver answers gRPC, as its channels name it."""
        return self.addresses.endpoint(self.addresses.grpc_port) if self.exposure.direct else self.sockets.grpc

    @property
    def link(self) -> Path:
        """Where the server finds the repository: the Python backend hands paths to a shell unquoted."""
        return self.folder.path / "models"


class TritonProcess:
    """One run of a tritonserver. Entering starts it; leaving stops it, and every child that it leaves behind."""

    def __init__(self, launch: Launch, progress: Progress, *, verbose: bool = False) -> None:
        self._launch, self._progress, self._verbose = launch, progress, verbose

    def __enter__(self) -> TritonProcess:
        # a proxy of the environment would be asked for this machine, too
        settings = [("grpc.enable_http_proxy", 0), *((f"grpc.{name}_reconnect_backoff_ms", 100) for name in _PAUSES)]
        self._channel = require("grpc", "server").insecure_channel(self._launch.target, settings)
        self._launch.sockets.clear()
        self._process = launched(
            self._launch.command(),
            env=os.environ | dict([TELEMETRY_OFF]) | self._launch.installation.environment,
            pass_fds=(self._launch.folder.lock,),
        )
        assert self._process.stdout is not None
        names = [(str(self._launch.link), str(self._launch.repository))]
        self._log = ServerLog(self._process.stdout, self._progress, verbose=self._verbose, names=names)
        self._watch = FaultWatch(self._process.pid)
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        self._channel.close()
        if not isinstance(error, FaultError):  # it would wait in vain for what it has begun
            self._let_finish()
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, stop: StopRequest) -> bool:
        """Wait until all models are ready. Returns False where `stop` was asked for before.

        Raises ServerError where the server ends by itself, does not work, or gets no further.
        """
        stall = StallWatch(self.pid, lambda: self._log.count)
        while not self._is_ready():
            if stop.asked:
                return False
            if self._process.poll() is not None:
                raise ServerError(f"tritonserver did not start: {self._log.reason()}")
            if fault := self._watch.fault() or stall.fault():
                raise ServerError(
                    f"tritonserver did not start: {fault} {self._log.loading()}; "
                    f"the last line of its log: {self._log.last_line()}"
                )
            time.sleep(_POLL_S)
        self._log.release()
        return True

    def wait(self, stop: StopRequest, check: Callable[[], str | None]) -> int:
        """Wait until the server ends, or is asked to. Returns its exit code, 0 where it was asked.

        Raises FaultError where a signal ended it, or where it goes on and does not work. check: describes a fault that
        others see.
        """
        while not stop.asked:
            if (code := self._process.poll()) is not None:
                return self._told_end(code)
            if fault := self._watch.fault() or check():
                raise FaultError(fault)
            time.sleep(_POLL_S)
        return 0

    def _told_end(self, code: int) -> int:
        """The exit code of a server that ended. Raises FaultError where a signal ended it."""
        if code < 0:
            hint = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
            raise FaultError(f"tritonserver was ended by {signal.Signals(-code).name}{hint}")
        reason = f": {self._log.reason()}" if code else ""  # one that another process asked to stop has none
        self._progress.note(f"tritonserver ended with exit code {code}{reason}")
        return code

    def _is_ready(self) -> bool:
        # the server begins to listen when all of its models are loaded and warm
        try:
            answer = self._channel.unary_unary(_READY)(b"", timeout=_HEALTH_S)
        except require("grpc", "server").RpcError:
            return False
        return bool(answer == TRUE) and self._listens()

    def _listens(self) -> bool:
        """Whether it does at its other ports, too, which come after gRPC's."""
        addresses = self._launch.addresses
        try:
            for port in (addresses.http_port, addresses.metrics_port) if self._launch.exposure.direct else ():
                socket.create_connection((addresses.host, port), _HEALTH_S).close()
        except OSError:
            return False
        return True

    def _let_finish(self) -> None:
        """Let the server finish what it has begun, as long as it gets on with it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        stall, end = StallWatch(self.pid, lambda: self._log.count, stops=True), time.monotonic() + _STOP_S
        while self._process.poll() is None and not self._watch.fault():
            reason = stall.fault() or (f"it took {_STOP_S:.0f} s" if time.monotonic() >= end else None)
            if reason:
                self._progress.note(f"tritonserver did not stop ({reason}) and was killed")
                return
            time.sleep(_POLL_S)

    def _end(self) -> None:
        """End it with all of its children: a stub outlives a server that was killed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.join()
        self._launch.folder.remove_segments()
