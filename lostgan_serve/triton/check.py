"""Looking at a server as one does before others are let in: what it is, who gets where, and whether there is room."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lostgan_serve.errors import require
from lostgan_serve.processes import family
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.triton.advisories import open_in
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.gateway.backend import SERVICE
from lostgan_serve.triton.server import Endpoints, running_server
from lostgan_serve.triton.server_folder import SHARED_MEMORY

Level = Literal["ok", "warning", "fault"]

_ADMIN_PATHS = ("repository/index", "systemsharedmemory/status", "cudasharedmemory/status", "trace/setting", "logging")
_ADMIN_CALLS = {
    "RepositoryIndex": "repository",
    "SystemSharedMemoryStatus": "shared memory",
    "TraceSetting": "trace settings",
    "LogSettings": "log settings",
}
_CLOUD_PATHS = ("/ping", "/invocations", "/v1/endpoints", "/predict")
_REFUSED = (400, 403, 404, 405)

_ROOM_BYTES = 2**28
_FILES = 4096
_ASKING_S = 10.0
_LISTENS = "0A"  # the state of a socket in /proc/net/tcp


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: "fault" where others should not be let in."""

    level: Level
    text: str


def check(repository: Path, exposure: Exposure, progress: Progress = SILENT) -> Iterator[Finding]:
    """Start a server, look at it, and end it. It is not encrypted meanwhile, and listens on this machine alone. Raises
    what `running_server` does."""
    with running_server(repository, Exposure(direct=exposure.direct), progress) as endpoints:
        yield from _version(endpoints, exposure)
        yield _admin_over_http(endpoints)
        yield _admin_over_grpc(endpoints)
        yield _listening(endpoints)
        yield _room()
        yield _files()


def _version(endpoints: Endpoints, exposure: Exposure) -> Iterator[Finding]:
    with closing(require("tritonclient.grpc", "server").InferenceServerClient(endpoints.admin)) as client:
        version = client.get_server_metadata(client_timeout=_ASKING_S).version
    known = open_in(version)
    if not known:
        yield Finding("ok", f"tritonserver {version} has no advisory that is known here")
        return
    names = ", ".join(advisory.name for advisory in known)
    text = f"tritonserver {version} lacks the fixes of {names}; {known[-1].container} has them"
    if exposure.direct:
        yield Finding("fault", f"{text}, and it faces the network itself: leave out --direct")
    else:
        yield Finding("warning", f"{text}; the gateway lets inference, health and metadata alone through")


def _admin_over_http(endpoints: Endpoints) -> Finding:
    open_paths = [path for path in (*(f"/v2/{each}" for each in _ADMIN_PATHS), *_CLOUD_PATHS)
                  if _status(endpoints, path) not in _REFUSED]  # fmt: skip
    return _closed("HTTP", open_paths, "admin APIs, SageMaker's and Vertex AI's")


def _status(endpoints: Endpoints, path: str) -> int:
    with closing(http.client.HTTPConnection(endpoints.http, timeout=_ASKING_S)) as connection:
        connection.request("POST" if path.endswith("index") else "GET", path)
        return int(connection.getresponse().status)


def _admin_over_grpc(endpoints: Endpoints) -> Finding:
    grpc: Any = require("grpc", "server")
    open_calls = []
    with grpc.insecure_channel(endpoints.grpc, [("grpc.enable_http_proxy", 0)]) as channel:
        channel.unary_unary(f"{SERVICE}ServerLive")(b"", timeout=_ASKING_S)  # so that a refusal means one
        for call, name in _ADMIN_CALLS.items():
            try:
                channel.unary_unary(f"{SERVICE}{call}")(b"", timeout=_ASKING_S)
            except grpc.RpcError:
                continue
            open_calls.append(name)
    return _closed("gRPC", open_calls, "admin APIs")


def _closed(protocol: str, found: Sequence[str], what: str) -> Finding:
    if found:
        return Finding("fault", f"{protocol}: {', '.join(found)} can be used without the key")
    return Finding("ok", f"{protocol}: {what} are closed")


def _listening(endpoints: Endpoints) -> Finding:
    """Whether the server's processes listen at its three ports and nowhere else."""
    told = {int(each.rpartition(":")[2]) for each in (endpoints.http, endpoints.grpc, endpoints.metrics)}
    sockets = {link for pid in family(os.getpid())[1:] for link in _open_files(pid) if link.startswith("socket:")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
                    found.add(int(fields[1].rpartition(":")[2], 16))
    if others := found - told:
        return Finding("fault", f"ports {', '.join(map(str, sorted(others)))} are open besides those of the server")
    return Finding("ok", f"ports {', '.join(map(str, sorted(told)))} are open, and no others")


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())


def _room() -> Finding:
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{SHARED_MEMORY}: {free // 2**20} MiB are free"
    if free < _ROOM_BYTES:
        return Finding("warning", f"{text}; {_ROOM_BYTES // 2**20} MiB are better (for a container: --shm-size)")
    return Finding("ok", text)


def _files() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = f"{hard} files may be open at a time"
    if hard < _FILES:
        return Finding("warning", f"{text}, connections included; {_FILES} are better (ulimit -n)")
    return Finding("ok", text)
