"""Starting tritonserver on a model repository, waiting until it is ready, and leaving nothing of it behind.

The server is a `tritonserver` on PATH, as in NVIDIA's image, or else the one inside the nvidia-pytriton wheel. That one
has the Python backend only, and runs the models with this environment's ONNX Runtime (see `embedded`).
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from lostgan_serve.errors import MissingExtraError, ServerError, require
from lostgan_serve.triton.repository import EMBEDDED_CONFIGURATION, exported_models

HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
LOOPBACK = "127.0.0.1"

ADMIN_KEY_VARIABLE = "LOSTGAN_SERVE_ADMIN_KEY"
ADMIN_HEADER = "lostgan-serve-admin-key"
"""Header with the admin key: under this name in HTTP, after `triton-grpc-protocol-` in gRPC."""

_ADMIN_APIS = "model-repository,shared-memory,trace,logging"
_SHARED_MEMORY = Path("/dev/shm")
_STOP_S = 40.0  # tritonserver itself gives requests in flight 30 s
_POLL_S = 0.1
_TAIL_LINES = 200

_PROBLEM = re.compile(r"[WE]\d{4} |\S*error: ", re.IGNORECASE)
_ANY_LEVEL = re.compile(r"[IWEF]\d{4} ")
_HARMLESS = ("pinned system memory", "CudaDriverHelper", "NVML", "DCGM")  # what every machine without a GPU is told

# execs its arguments as a process that is sent SIGTERM when this one is gone, however it went. A preexec_fn would fork
# this process instead, and gRPC's threads with it.
_LAUNCHER = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Endpoints:
    """Where a running server answers. http, grpc, metrics: host:port. pid: of the tritonserver process."""

    http: str
    grpc: str
    metrics: str
    models: tuple[str, ...]
    admin_key: str
    pid: int


def serve(
    repository: Path,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    metrics_port: int = METRICS_PORT,
    host: str = LOOPBACK,
    *,
    verbose: bool = False,
) -> int:
    """Serve every exported model until SIGINT or SIGTERM; call it from the main thread.

    A port of 0 stands for a free one. verbose: print all of the server's log, not only warnings and errors. Returns the
    server's exit code: 0 after a clean stop, 128 + n where signal n ended it. Raises what `running_server` does.
    """
    server = _Server(repository, (http_port, grpc_port, metrics_port), host, progress=True, verbose=verbose)
    with _forward_signals(server), server:
        endpoints = server.wait_until_ready()
        if endpoints is not None:
            click.echo(f"HTTP     http://{endpoints.http}")
            click.echo(f"gRPC     {endpoints.grpc}")
            click.echo(f"metrics  http://{endpoints.metrics}/metrics")
            click.echo(f"models   {', '.join(endpoints.models)}")
            click.echo("Ctrl-C stops the server.")
        return server.wait()


@contextmanager
def running_server(
    repository: Path, http_port: int = 0, grpc_port: int = 0, metrics_port: int = 0, host: str = LOOPBACK
) -> Iterator[Endpoints]:
    """A server that is ready when the block begins and gone when it ends. A port of 0 stands for a free one. The server
    ends with the thread that entered the block, too.

    Raises ModelError where no model is exported, MissingExtraError without any tritonserver, and ServerError where a
    port is taken, this Python does not suit the server, or the server does not come up.
    """
    with _Server(repository, (http_port, grpc_port, metrics_port), host) as server:
        endpoints = server.wait_until_ready()
        if endpoints is None:
            raise ServerError("tritonserver was stopped before it was ready")
        yield endpoints


class _Server:
    """One tritonserver process. Entering starts it; leaving stops it and removes what it left."""

    def __init__(
        self,
        repository: Path,
        ports: tuple[int, int, int],
        host: str,
        *,
        progress: bool = False,
        verbose: bool = False,
    ) -> None:
        self._repository, self._wanted_ports, self._host = repository, ports, host
        self._progress, self._verbose = progress, verbose
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._problems: list[str] | None = []  # of the start, until it is clear whether it failed
        self._started = self._stopping = False

    def __enter__(self) -> _Server:
        self._models = exported_models(self._repository)
        self._ports = _free_ports(self._host, self._wanted_ports)
        self._admin_key = os.environ.get(ADMIN_KEY_VARIABLE) or secrets.token_urlsafe(24)
        self._prefix = f"lostgan-serve-{os.getpid()}-{secrets.token_hex(4)}-"
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lostgan-serve-")))
            installation = _find_tritonserver(scratch)
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *self._command(installation)],
                env=os.environ | installation.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it once, from us; and so does the end of all its children
                text=True,
                errors="replace",
            )
            self._started = True
            if self._stopping:  # asked before there was a process to pass it on to
                self.send_signal(signal.SIGTERM)
            stack.callback(self._stop)
            self._reader = threading.Thread(target=self._read_log, daemon=True)
            self._reader.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def send_signal(self, number: int) -> None:
        """Ask the server to stop, if need be as soon as it has started."""
        self._stopping = True
        if self._started:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the server's end. Returns its exit code, 128 + n where signal n ended it."""
        code = self._process.wait()
        if self._stopping and code in (-signal.SIGTERM, -signal.SIGINT):
            return 0  # asked to stop before it had handlers of its own
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
            click.echo(f"tritonserver was ended by {name}{hint}", err=True)
        elif code:
            self._reader.join(timeout=5)
            click.echo(f"tritonserver ended with exit code {code}: {self._reason()}", err=True)
        return code if code >= 0 else 128 - code

    def wait_until_ready(self) -> Endpoints | None:
        """Wait until all models are ready. Returns None where the server was asked to stop before; raises ServerError
        where it ended by itself."""
        while not self._ready():
            if self._process.poll() is None:
                time.sleep(_POLL_S)
            elif self._stopping:
                return None
            else:
                self._reader.join(timeout=5)
                raise ServerError(f"tritonserver did not start: {self._reason()}")
        problems, self._problems = self._problems or [], None
        for line in problems:
            click.echo(line, err=True)
        http_url, grpc_url, metrics_url = (f"{self._host}:{port}" for port in self._ports)
        return Endpoints(http_url, grpc_url, metrics_url, tuple(self._models), self._admin_key, self._process.pid)

    def _command(self, installation: _Installation) -> list[str]:
        http_port, grpc_port, metrics_port = self._ports
        return [
            str(installation.executable),
            *installation.arguments,
            f"--model-repository={self._repository.resolve()}",
            "--model-control-mode=explicit",  # a model that is configured but not exported is no error
            *(f"--load-model={name}" for name in self._models),
            f"--http-address={self._host}",
            f"--http-port={http_port}",
            f"--grpc-address={self._host}",
            f"--grpc-port={grpc_port}",
            f"--metrics-address={self._host}",
            f"--metrics-port={metrics_port}",
            f"--http-restricted-api={_ADMIN_APIS}:{ADMIN_HEADER}={self._admin_key}",
            f"--grpc-restricted-protocol={_ADMIN_APIS}:{ADMIN_HEADER}={self._admin_key}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
        ]

    def _ready(self) -> bool:
        # the server begins to listen when all of its models are loaded and warm
        host = LOOPBACK if self._host == "0.0.0.0" else self._host
        connection = http.client.HTTPConnection(host, self._ports[0], timeout=5)  # not by way of a proxy
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.client.OK
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        problem = False
        for line in self._process.stdout:
            line = line.rstrip()
            self._tail.append(line)
            if self._progress and (loaded := re.search(r'"successfully loaded \'(.+)\'"', line)):
                click.echo(f"{loaded[1]} is ready after {time.monotonic() - self._began:.1f} s")
            if _ANY_LEVEL.match(line) or _PROBLEM.match(line):  # other lines go on with the one before
                problem = bool(_PROBLEM.match(line)) and not any(words in line for words in _HARMLESS)
            if self._verbose:
                click.echo(line, err=True)
            elif problem and self._problems is not None:
                self._problems.append(line)
            elif problem:
                click.echo(line, err=True)

    def _reason(self) -> str:
        """The line of the log that tells best why the server ended."""
        lines = list(self._tail)
        for pattern in (r"failed to load '.+?' version \d+: .+", r"(?i:error: .+)", r"^Bad option.+", r"^E\d{4} .+"):
            if found := [match[0] for match in (re.search(pattern, line) for line in lines) if match]:
                return found[0].partition(r"\n")[0].rstrip('"')
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with suppress(ProcessLookupError):  # a stub outlives a server that was killed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)
        for left in _SHARED_MEMORY.glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)


@contextmanager
def _forward_signals(server: _Server) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the server while the block runs."""
    forwarded = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: server.send_signal(number)) for number in forwarded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_ports(host: str, wanted: tuple[int, int, int]) -> tuple[int, ...]:
    """Replace each 0 by a free port, and see that the others are free. Raises ServerError naming the option."""
    with ExitStack() as stack:  # all are held at once, so that no port is given twice
        ports = []
        for option, port in zip(("--http-port", "--grpc-port", "--metrics-port"), wanted, strict=True):
            try:
                held = stack.enter_context(socket.create_server((host, port)))
            except OSError as error:
                raise ServerError(
                    f"port {port} of {host} cannot be used ({error.strerror}); choose another with {option}"
                ) from error
            ports.append(int(held.getsockname()[1]))
        return tuple(ports)


@dataclass(frozen=True)
class _Installation:
    executable: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]


def _find_tritonserver(scratch: Path) -> _Installation:
    """The tritonserver to start. scratch: an empty folder that lives as long as the server."""
    if executable := shutil.which("tritonserver"):
        return _Installation(Path(executable), (), {})
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "there is no tritonserver on PATH and none in this environment; install one with: "
            "pip install 'lostgan-serve[server]', or run this in NVIDIA's image nvcr.io/nvidia/tritonserver"
        )
    return _wheel_installation(Path(spec.submodule_search_locations[0]), scratch)


def _wheel_installation(package: Path, scratch: Path) -> _Installation:
    """The nvidia-pytriton wheel's server, with a backend folder and a Python environment for it in `scratch`."""
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted((path.name for path in stub.parent.parent.iterdir()), key=lambda name: int(name.split(".")[1]))
        raise ServerError(
            f"nvidia-pytriton's tritonserver has no stub for Python {version}; use one of {', '.join(known)}"
        )
    numpy_version = require("numpy", "server").__version__
    if int(numpy_version.partition(".")[0]) >= 2:
        raise ServerError(
            f"nvidia-pytriton's tritonserver needs numpy below 2, with {numpy_version} its answers have wrong sizes; "
            "install it with: pip install 'numpy<2'"
        )
    libraries = [package.parent / "nvidia_pytriton.libs", _libpython_folder(version)]
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (*(server / "backends" / "python").glob("*triton_python*"), stub):
        (backend / file.name).symlink_to(file)
    python = _mirror_environment(scratch / "python", version)
    return _Installation(
        server / "bin" / "tritonserver",
        (f"--backend-directory={backend.parent}", f"--model-config-name={EMBEDDED_CONFIGURATION}"),
        {
            "LD_LIBRARY_PATH": _joined(*libraries, os.environ.get("LD_LIBRARY_PATH")),
            "PATH": _joined(python / "bin", os.environ.get("PATH")),
        },
    )


def _mirror_environment(folder: Path, version: str) -> Path:
    """Make a virtual environment that sees the packages of this process, wherever they come from.

    The stub ignores PYTHONPATH and PYTHONHOME: it takes its environment from the first `python3` on PATH.
    """
    venv.create(folder, symlinks=True)
    folders = [Path(entry).resolve() for entry in sys.path]
    folders.append(Path(__file__).parents[2])  # on sys.path already, but for an editable install with an import hook
    # the stub imports model.py from the repository, which is to stay as it was exported
    lines = [*map(str, folders), "import sys; sys.dont_write_bytecode = True"]
    (folder / f"lib/python{version}/site-packages/lostgan_serve.pth").write_text("\n".join(lines))
    return folder


def _libpython_folder(version: str) -> Path:
    name = f"libpython{version}.so.1.0"
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    for root in (sysconfig.get_config_var("LIBDIR") or "/usr/lib", f"{sys.base_prefix}/lib", "/usr/lib"):
        for folder in (Path(root), Path(root) / architecture):
            if (folder / name).is_file():
                return folder
    raise ServerError(
        f"nvidia-pytriton's tritonserver needs {name}, and {sys.executable} has none; install it (Debian's package is "
        f"libpython{version}) or use a Python built with --enable-shared"
    )


def _joined(*folders: Path | str | None) -> str:
    return os.pathsep.join(str(folder) for folder in folders if folder)
