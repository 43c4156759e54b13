"""The guard before the editor's server: who may ask, how much, and for how long."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from lostgan_serve.triton.addresses import LOOPBACK
from lostgan_serve.web.asgi import App, Limits, Message, Receive, RefusedError, Send, headers, read_body, refuse

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
class EditorLimits(Limits):
    """How much the editor takes. file_bytes: of a file that is opened. waiting: requests that wait for the runner."""

    file_bytes: int = 2**24
    waiting: int = 8


LIMITS = EditorLimits()


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


@dataclass(frozen=True)
class Guard:
    """An ASGI application that lets `app` see requests of this site's own pages with the token alone, each with its
    whole body."""

    app: App
    site: Site
    token: str
    limits: EditorLimits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = await self._body(scope, receive) if scope["method"] == "POST" else b""
        except RefusedError as error:
            await refuse(error, send)
        else:
            await self.app(scope, _replayed(body, receive), send)

    def _check(self, scope: Message) -> None:
        """Raise RefusedError for a request that is not the page's."""
        hosts, origins = list(headers(scope, b"host")), list(headers(scope, b"origin"))
        if not hosts or not all(map(self.site.includes, hosts)):
            raise RefusedError(421, "the Host of this request is not this server; open the URL that `edit` printed")
        if not all(origin.startswith("http://") and self.site.includes(origin[7:]) for origin in origins):
            raise RefusedError(403, "pages of other sites may not use this server")
        if not {"same-origin", "none"}.issuperset(headers(scope, b"sec-fetch-site")):
            raise RefusedError(403, "pages of other sites may not use this server")
        to_api = scope["path"].startswith(API)
        if scope["method"] not in ("GET", "HEAD", *(("POST",) if to_api else ())):
            raise RefusedError(405, "there is nothing here for this method")
        if to_api and not self._knows_token(scope):
            raise RefusedError(403, "the token is missing or wrong; open the URL that `edit` printed")

    def _knows_token(self, scope: Message) -> bool:
        given = "".join(headers(scope, b"authorization"))
        return secrets.compare_digest(given.encode(), f"Bearer {self.token}".encode())

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """The body of a request. Raises RefusedError for one that is too large or too slow."""
        most = self.limits.file_bytes if scope["path"] == _OPEN else self.limits.body_bytes
        return await read_body(scope, receive, most, self.limits.body_s)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` as an application sees it that has not read the body yet."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
