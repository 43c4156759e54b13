"""The process of a tritonserver: starting it, waiting until it is ready, and stopping it with all of its children."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import ServerError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import TELEMETRY_OFF
from lostgan_serve.triton.addresses import Addresses
from lostgan_serve.triton.installation import Installation
from lostgan_serve.triton.server_folder import ServerFolder
from lostgan_serve.triton.server_log import ServerLog
from lostgan_serve.triton.watch import FaultWatch, StallWatch

ADMIN_APIS = "model-repository,shared-memory,trace,logging"
ADMIN_HEADER = "lostgan-serve-admin-key"
"""Header with the admin key: under this name in HTTP, after `triton-grpc-protocol-` in gRPC."""

_STOP_S = 40.0  # tritonserver itself gives requests in flight 30 s
_POLL_S = 0.1
_HEALTH_S = 5.0

# Execs its arguments as a process that is sent SIGTERM when this one is gone, however it went, and that may have as
# many connections as the system allows. A preexec_fn would fork this process instead, and gRPC's threads with it.
_LAUNCHER = """\
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]): sys.exit(1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.execv(sys.argv[2], sys.argv[2:])
"""


class StopRequest:
    """Whether the server has been asked to stop."""

    asked = False


class FaultError(ServerError):
    """A server that has to be started again: it runs and does not work."""


@dataclass(frozen=True)
class Launch:
    """All that a start of a server takes. A second start with the same takes the place of the first."""

    repository: Path
    models: tuple[str, ...]
    addresses: Addresses
    admin_key: str
    installation: Installation
    folder: ServerFolder

    def command(self) -> list[str]:
        """The command line of tritonserver."""
        return [
            str(self.installation.executable),
            *self.installation.options,
            f"--model-repository={self.link}",
            "--model-control-mode=explicit",  # a model that is configured but not exported is no error
            *(f"--load-model={name}" for name in self.models),
            *self.addresses.options(),
            f"--http-restricted-api={ADMIN_APIS}:{ADMIN_HEADER}={self.admin_key}",
            f"--grpc-restricted-protocol={ADMIN_APIS}:{ADMIN_HEADER}={self.admin_key}",
            f"--backend-config=python,shm-region-prefix-name={self.folder.segment_prefix}",
        ]

    @property
    def link(self) -> Path:
        """Where the server finds the repository: the Python backend hands paths to a shell unquoted."""
        return self.folder.path / "models"


class TritonProcess:
    """One run of a tritonserver. Entering starts it; leaving stops it, and every child that it leaves behind."""

    def __init__(self, launch: Launch, progress: Progress, *, verbose: bool = False) -> None:
        self._launch, self._progress, self._verbose = launch, progress, verbose

    def __enter__(self) -> TritonProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *self._launch.command()],
            env=os.environ | dict([TELEMETRY_OFF]) | self._launch.installation.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; and all its children can be ended together
            pass_fds=(self._launch.folder.lock,),
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdout is not None
        names = [(str(self._launch.link), str(self._launch.repository))]
        self._log = ServerLog(self._process.stdout, self._progress, verbose=self._verbose, names=names)
        self._watch = FaultWatch(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

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

    def wait(self, stop: StopRequest) -> int:
        """Wait until the server ends, or is asked to. Returns its exit code, 0 where it was asked, and 128 + n where
        signal n ended it. Raises FaultError where it goes on and does not work."""
        while not stop.asked:
            if (code := self._process.poll()) is not None:
                return self._told_end(code)
            if fault := self._watch.fault():
                raise FaultError(fault)
            time.sleep(_POLL_S)
        return 0

    def _told_end(self, code: int) -> int:
        if code < 0:
            hint = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
            self._progress.note(f"tritonserver was ended by {signal.Signals(-code).name}{hint}")
            return 128 - code
        reason = f": {self._log.reason()}" if code else ""  # one that another process asked to stop has none
        self._progress.note(f"tritonserver ended with exit code {code}{reason}")
        return code

    def _is_ready(self) -> bool:
        # the server begins to listen when all of its models are loaded and warm
        addresses = self._launch.addresses
        connection = http.client.HTTPConnection(addresses.host, addresses.http_port, timeout=_HEALTH_S)  # no proxy
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.client.OK
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        """Let the server finish what it has begun. One that does not work is ended at once: it would wait in vain."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        end = time.monotonic() + _STOP_S
        while self._process.poll() is None and time.monotonic() < end and not self._watch.fault():
            time.sleep(_POLL_S)
        if self._process.poll() is None and time.monotonic() >= end:
            self._progress.note(f"tritonserver did not stop within {_STOP_S:.0f} s and was killed")
        with suppress(ProcessLookupError):  # a stub outlives a server that was killed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.join()
        self._launch.folder.remove_segments()
