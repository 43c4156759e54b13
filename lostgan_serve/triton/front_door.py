"""The gateway's process, as `serve` starts it, watches it, and tells it how the server is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from lostgan_serve.errors import ServerError
from lostgan_serve.progress import Progress
from lostgan_serve.triton.gateway.running import LISTENING
from lostgan_serve.triton.gateway.settings import Settings, Status
from lostgan_serve.triton.launcher import launched
from lostgan_serve.triton.watch import FaultWatch

_START_S, _STOP_S = 60.0, 5.0

# As `-m` would, but for the current folder, which may hold anything, at the head of the path.
_MAIN = (
    "import sys; sys.path[:] = sys.path[1:]; from lostgan_serve.triton.gateway.running import main; main(sys.argv[1])"
)


class FrontDoor:
    """A gateway that runs while its block does. Entering raises ServerError where it does not come up."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self.tell(Status(False, "the server is starting"))

    def __enter__(self) -> FrontDoor:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def tell(self, status: Status) -> None:
        """Tell the gateway how the server is."""
        status.write(Path(self._settings.folder))

    def fault(self) -> str | None:
        """Describe a gateway that ended or is stopped; None while it runs. Call it more than once a second."""
        code = self._process.poll()
        return self._watch.fault() if code is None else f"the gateway ended with exit code {code}"

    def start_again(self) -> None:
        """Put another in the place of one that ended. Raises ServerError."""
        self._end()
        self._start()

    def _start(self) -> None:
        self._heard, self._last_line, self._is_listening = threading.Event(), "it printed nothing", False
        self._process: subprocess.Popen[str] = launched([sys.executable, "-c", _MAIN, self._settings.to_json()])
        self._watch = FaultWatch(self._process.pid, "the gateway")
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._heard.wait(_START_S)
        if not self._is_listening:
            self._end()
            raise ServerError(f"the gateway did not start: {self._last_line.removeprefix('error: ')}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in filter(None, map(str.strip, process.stdout)):
            if line == LISTENING:
                self._is_listening = True
                self._heard.set()
            elif self._is_listening:
                self._progress.note(f"gateway: {line}")
            self._last_line = line
        self._heard.set()

    def _end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(0 if self._watch.fault() else _STOP_S)  # a stopped one does not hear it
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_STOP_S)  # it tells of this process, not of the next one
