"""The command `serve` as a process that a supervisor keeps: one that ends is started again at the same ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from faults.leftovers import Traces

COMMAND = str(Path(sys.executable).with_name("lostgan-serve"))

_ENDPOINT = re.compile(r"^(HTTP|gRPC|metrics) +(?:http://)?(\S+?)(?:/metrics)?$", re.MULTILINE)
_START_S, _STOP_S = 90.0, 60.0
_MOST_RUNS = 50  # for about a minute a port may be taken still


class Serve:
    """A server of a model repository. Entering starts it, leaving stops it as Ctrl-C does.

    prefix: words before the command, such as those of prlimit. told: the last line of each run that ended by itself.
    """

    def __init__(self, repository: Path, traces: Traces, folder: Path, prefix: Sequence[str] = ()) -> None:
        self._traces, self._prefix, self._folder = traces, [*prefix], folder
        self._words = [COMMAND, "serve", "--repository", str(repository)]
        self._ports = {"http": 0, "grpc": 0, "metrics": 0}
        self._lock, self._leaving, self._runs = threading.RLock(), threading.Event(), 0
        self.told: list[str] = []

    def __enter__(self) -> Serve:
        if not self.start():
            raise AssertionError(self.errors())
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._keeper.join()
        self.stop()

    @property
    def urls(self) -> tuple[str, str]:
        """Its addresses over gRPC and over HTTP."""
        return tuple(f"{name}://127.0.0.1:{self._ports[name]}" for name in ("grpc", "http"))  # type: ignore[return-value]

    def start(self) -> bool:
        """Start it, and wait until it is ready. Returns False where it ends before."""
        self._runs += 1
        self._log = self._folder / f"serve-{self._runs}.log"
        ports = [word for name, port in self._ports.items() for word in (f"--{name}-port", str(port))]
        output = self._folder / f"serve-{self._runs}.out"
        with self._log.open("w") as errors, output.open("w") as lines:
            self.process = subprocess.Popen(
                [*self._prefix, *self._words, *ports], stdout=lines, stderr=errors, env=self._traces.environment
            )
        end = time.monotonic() + _START_S
        while "Ctrl-C" not in (told := output.read_text("utf-8")):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, f"serve is not ready after {_START_S:.0f} s: {self.errors()}"
            time.sleep(0.05)
        for name, address in _ENDPOINT.findall(told):
            self._ports[name.lower()] = int(address.rpartition(":")[2])
        self._traces.note()
        return True

    def errors(self) -> str:
        """What the last run wrote to standard error."""
        return self._log.read_text("utf-8")

    def ended(self) -> subprocess.CompletedProcess[str]:
        """How the last run ended."""
        return subprocess.CompletedProcess(self._words, self.process.wait(), "", self.errors())

    def find(self, part: str) -> int | None:
        """The pid of the part that runs now: serve, tritonserver, stub or gateway; None where there is none."""
        if part == "serve":
            return self.process.pid
        names: dict[str, Callable[[list[str]], bool]] = {
            "tritonserver": lambda words: Path(words[0]).name == "tritonserver",
            "stub": lambda words: Path(words[0]).name == "triton_python_backend_stub",
            "gateway": lambda words: any(".gateway." in word for word in words),
        }
        return next((pid for pid, words in self._traces.processes().items() if names[part](words)), None)

    def hit(self, part: str, number: signal.Signals) -> bool:
        """Send a signal to a part. Returns False where there is no such part at this moment."""
        with self._lock:
            self._traces.note()
            pid = self.find(part)
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            return True

    def kill_all(self) -> None:
        """Kill every process of it at once. The supervisor starts it again."""
        with self._lock:
            self._traces.note()
            for pid in [pid for part in ("serve", "gateway", "tritonserver", "stub") if (pid := self.find(part))]:
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Have it stop as Ctrl-C does, and wait."""
        if self.process.poll() is None:
            self._traces.note()
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"serve did not stop within {_STOP_S:.0f} s: {self.errors()}") from None

    def _keep(self) -> None:
        """Start it again where it ended, as a supervisor does, and again where its ports are taken still."""
        while not self._leaving.wait(0.2):
            with self._lock:
                if self.process.poll() is None:
                    continue
                self.told += self.errors().splitlines()[-1:]
                while self._runs < _MOST_RUNS and not self._leaving.is_set() and not self.start():
                    self.told += self.errors().splitlines()[-1:]
                    time.sleep(1)


def can_listen(url: str) -> bool:
    """Whether the port of an address is free again."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))
        except OSError:
            return False
        return True
