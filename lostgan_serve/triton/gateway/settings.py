"""What the gateway's process is told when it starts, and what it is told later by the process that started it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lostgan_serve.files import write_file
from lostgan_serve.triton.configuration import QUEUE_SIZE
from lostgan_serve.web.asgi import Limits

_GRPC, _METRICS, _STATUS = "grpc", "metrics", "status.json"
_GRPC_PORT = 1
"""tritonserver makes a colon and a port part of its socket's name."""

_JSON_SIZE = 8
"""How much larger a request with its numbers as JSON may be than one in binary."""

_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Sockets:
    """Where tritonserver listens: Unix sockets in a folder that this user alone may enter."""

    folder: Path

    @property
    def grpc(self) -> str:
        """The target of gRPC's channels."""
        return f"unix:{self.folder / _GRPC}:{_GRPC_PORT}"

    @property
    def metrics(self) -> Path:
        return self.folder / _METRICS

    def options(self) -> list[str]:
        """The options of tritonserver that say where to listen."""
        return [
            "--allow-http=false",
            f"--grpc-address=unix:{self.folder / _GRPC}",
            f"--grpc-port={_GRPC_PORT}",
            f"--metrics-address=unix:{self.metrics}",
        ]

    def clear(self) -> None:
        """Remove those of a tritonserver that is gone."""
        for name in (f"{_GRPC}:{_GRPC_PORT}", _METRICS):
            (self.folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Status:
    """What the process that watches tritonserver knows of it. ready: it answers, and rightly. reason: why not.
    restarts: how often it was started again. probe_s: how long the last probe of each model took, in seconds."""

    ready: bool
    reason: str
    restarts: int = 0
    probe_s: dict[str, float] | None = None

    def write(self, folder: Path) -> None:
        write_file(folder / _STATUS, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Status:
        try:
            return cls(**json.loads((folder / _STATUS).read_bytes()))
        except OSError:
            return cls(False, "the server is stopping")


@dataclass(frozen=True)
class Settings:
    """All that a gateway depends on.

    folder: of the sockets and the status. ip, http_port, grpc_port, metrics_port: where to listen. request_bytes: the
    largest request of any model, its tensors in binary. tls_cert, tls_key: files in PEM; without them nothing is
    encrypted. waiting: inferences that are under way at a time; more are refused. connections: over HTTP at a time.
    """

    folder: str
    ip: str
    http_port: int
    grpc_port: int
    metrics_port: int
    request_bytes: int
    tls_cert: str | None = None
    tls_key: str | None = None
    waiting: int = QUEUE_SIZE
    connections: int = 512

    @property
    def sockets(self) -> Sockets:
        return Sockets(Path(self.folder))

    @property
    def limits(self) -> Limits:
        """Those of HTTP."""
        return Limits(body_bytes=self.request_bytes * _JSON_SIZE + _HEADER_BYTES, connections=self.connections)

    @property
    def message_bytes(self) -> int:
        """The largest message of gRPC."""
        return 2 * self.request_bytes + _HEADER_BYTES

    def to_json(self) -> str:
        return json.dumps(asdict(self))
