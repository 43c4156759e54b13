"""The guard before the editor's server: who may ask, how much, and for how long."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from lostgan_serve.triton.addresses import LOOPBACK

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every answer."""

API = "/api/"
"""Paths that begin with this need the token."""

_OPEN = API + "open"
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_HTTP_PORT = 80  # which no browser writes


@dataclass(frozen=True)
class Limits:
    """How much the server takes. body_bytes: of a request; file_bytes: of a file that is opened. body_s, headers_s: for
    a request's body and headers to be there. connections: at a time, of which the longest idle one makes room for a
    new one. waiting: requests that wait for the runner."""

    body_bytes: int = 2**20
    file_bytes: int = 2**24
    body_s: float = 10
    headers_s: int = 10
    connections: int = 64
    waiting: int = 8


LIMITS = Limits()


@dataclass(frozen=True)
class Site:
    """Under which names a server may be asked for, which a page of another site that had its own name point here cannot
    choose. ip: that it listens at; with 0.0.0.0 or ::, any address and this machine's name are its own, too."""

    host: str
    ip: str
    port: int

    def includes(self, authority: str) -> bool:
        """Whether HOST:PORT is this server."""
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None or int(match[2] or _HTTP_PORT) != self.port:
            return False
        host = match[1].strip("[]")
        names = {self.host.lower(), self.ip, "localhost", LOOPBACK, "::1"}
        if not ipaddress.ip_address(self.ip).is_unspecified:
            return host in names
        return host in names | {socket.gethostname().lower()} or _is_address(host)


class _RefusedError(Exception):
    """A request that is answered with `status` and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


@dataclass(frozen=True)
class Guard:
    """An ASGI application that lets `app` see requests of this site's own pages with the token alone, each with its
    whole body."""

    app: App
    site: Site
    token: str
    limits: Limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = await self._body(scope, receive) if scope["method"] == "POST" else b""
        except _RefusedError as error:
            await _refuse(error, send)
        else:
            await self.app(scope, _replayed(body, receive), send)

    def _check(self, scope: Message) -> None:
        """Raise _RefusedError for a request that is not the page's."""
        hosts, origins = list(_headers(scope, b"host")), list(_headers(scope, b"origin"))
        if not hosts or not all(map(self.site.includes, hosts)):
            raise _RefusedError(421, "the Host of this request is not this server; open the URL that `edit` printed")
        if not all(origin.startswith("http://") and self.site.includes(origin[7:]) for origin in origins):
            raise _RefusedError(403, "pages of other sites may not use this server")
        if not {"same-origin", "none"}.issuperset(_headers(scope, b"sec-fetch-site")):
            raise _RefusedError(403, "pages of other sites may not use this server")
        to_api = scope["path"].startswith(API)
        if scope["method"] not in ("GET", "HEAD", *(("POST",) if to_api else ())):
            raise _RefusedError(405, "there is nothing here for this method")
        if to_api and not self._knows_token(scope):
            raise _RefusedError(403, "the token is missing or wrong; open the URL that `edit` printed")

    def _knows_token(self, scope: Message) -> bool:
        given = "".join(_headers(scope, b"authorization"))
        return secrets.compare_digest(given.encode(), f"Bearer {self.token}".encode())

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """The body of a request. Raises _RefusedError for one that is too large or too slow."""
        most = self.limits.file_bytes if scope["path"] == _OPEN else self.limits.body_bytes
        too_large = _RefusedError(413, f"larger than the {most} bytes that are taken here")
        if any(int(length) > most for length in _headers(scope, b"content-length")):
            raise too_large
        try:
            body = await asyncio.wait_for(_received(receive, most), self.limits.body_s)
        except asyncio.TimeoutError:
            raise _RefusedError(408, f"the body was not there within {self.limits.body_s:g} s") from None
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
            raise _RefusedError(400, "the connection ended within the body")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` as an application sees it that has not read the body yet."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(error: _RefusedError, send: Send) -> None:
    body = json.dumps({"error": str(error)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if error.status == 408 else []
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Message, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
