"""The requests of a soak: valid ones, and those that are wrong on purpose and that a server has to refuse."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from lostgan_export.bench.formulations import layouts_for
from lostgan_serve.contract import Array, Tensors, rows
from lostgan_serve.errors import LostganError, RequestError
from lostgan_serve.manifest import Manifest
from lostgan_serve.runners.triton import ServerAddress, TritonRunner

VALID = "valid"

_DISTINCT = 8
_CONNECT_S = 10.0
_BEGINNINGS = {
    "http": b"POST /v2/models/any/infer HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\n" + bytes(1000),
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + bytes([0, 1, 0]),
}


@dataclass(frozen=True)
class Wrong:
    """A way in which a request is wrong. change: makes the tensors of a valid request wrong; None for a connection that
    is cut in the middle of a request."""

    name: str
    change: Callable[[dict[str, Array]], None] | None = None

    def possible(self, address: ServerAddress) -> bool:
        """Whether it can be sent to a server: what is cut is a connection without TLS."""
        return self.change is not None or not address.tls


def valid_requests(manifest: Manifest) -> list[Tensors]:
    """Tensors of single layouts, all different."""
    batch = layouts_for(manifest, _DISTINCT)
    return [rows(batch, k, k + 1) for k in range(_DISTINCT)]


def send(kind: Wrong, runner: TritonRunner) -> None:
    """Send a wrong request. Raises LostganError where the server takes it, and what it raises in place of a refusal."""
    if kind.change is None:
        _cut(runner.address)
        return
    tensors = {name: array.copy() for name, array in layouts_for(runner.manifest, 1).items()}
    kind.change(tensors)
    with suppress(RequestError):
        runner.run(tensors, ("image",))
        raise LostganError("the server answered a request that it should refuse")


def _cut(address: ServerAddress) -> None:
    """Begin a request, and end the connection by a reset."""
    with socket.create_connection((address.host, address.port), _CONNECT_S) as connection:
        connection.sendall(_BEGINNINGS[address.protocol])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _unknown_label(tensors: dict[str, Array]) -> None:
    tensors["labels"][:] = 10**6


def _not_a_number(tensors: dict[str, Array]) -> None:
    tensors["boxes"][..., 0] = np.nan


def _wrong_shape(tensors: dict[str, Array]) -> None:
    tensors["z_img"] = tensors["z_img"][:, 1:].copy()


def _empty_box(tensors: dict[str, Array]) -> None:
    tensors["boxes"][..., 2] = 0


KINDS = (
    Wrong("unknown label", _unknown_label),
    Wrong("NaN", _not_a_number),
    Wrong("wrong shape", _wrong_shape),
    Wrong("empty box", _empty_box),
    Wrong("cut connection"),
)
"""All ways in which requests of a soak are wrong."""
