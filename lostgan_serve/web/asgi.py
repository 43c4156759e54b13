"""ASGI applications that face a network: requests are refused in one line, and bodies have limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """How much a server takes. body_bytes: of a request. body_s, headers_s: for a request's body and headers to be
    there. connections: at a time, of which the longest idle one makes room for a new one."""

    body_bytes: int = 2**20
    body_s: float = 10
    headers_s: int = 10
    connections: int = 64


class RefusedError(Exception):
    """A request that is answered with `status` and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


async def read_body(scope: Message, receive: Receive, most: int, limit_s: float) -> bytes:
    """The body of a request. Raises RefusedError for one over `most` bytes, or that is not there in time."""
    too_large = RefusedError(413, f"larger than the {most} bytes that are taken here")
    if any(int(length) > most for length in headers(scope, b"content-length")):
        raise too_large
    try:
        body = await asyncio.wait_for(_received(receive, most), limit_s)
    except asyncio.TimeoutError:
        raise RefusedError(408, f"the body was not there within {limit_s:g} s") from None
    if len(body) > most:
        raise too_large
    return body


async def _received(receive: Receive, most: int) -> bytes:
    """The body, as far as it goes; of one over `most` bytes, a part that is over it, too."""
    body = bytearray()
    more = True
    while more and len(body) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the connection ended within the body")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Return when the client of a request, whose body has been read, has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(error: RefusedError, send: Send) -> None:
    """Answer a request with its fault, as JSON."""
    body = json.dumps({"error": str(error)}).encode()
    close = [(b"connection", b"close")] if error.status == 408 else []
    await answer(send, error.status, body, [(b"content-type", b"application/json"), *close])


async def answer(send: Send, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """Send a whole answer. fields: its headers, but for the length."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
    await send({"type": "http.response.body", "body": body})


def headers(scope: Message, name: bytes) -> Iterator[str]:
    """The values of a header, whose name is in lower case."""
    return (value.decode("latin-1") for key, value in scope["headers"] if key == name)
