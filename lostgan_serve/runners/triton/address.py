"""The address of a Triton server."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Literal

from lostgan_serve.choices import GRPC_PORT, HTTP_PORT
from lostgan_serve.errors import ServerError

Protocol = Literal["grpc", "http"]


@dataclass(frozen=True)
class _Scheme:
    protocol: Protocol
    tls: bool
    port: int


_PROXY_PORT = 443  # Triton itself speaks no TLS over HTTP

_SCHEMES = {
    "grpc": _Scheme("grpc", False, GRPC_PORT),
    "grpcs": _Scheme("grpc", True, GRPC_PORT),
    "http": _Scheme("http", False, HTTP_PORT),
    "https": _Scheme("http", True, _PROXY_PORT),
}
_HOST = re.compile(r"[^\s\x00-\x1f\x7f/?#@\\:%\[\]]+")
_EXAMPLE = f"give HOST:PORT, such as localhost:{GRPC_PORT} or http://localhost:{HTTP_PORT}"


@dataclass(frozen=True)
class ServerAddress:
    """Where a Triton server answers, and how.

    tls: whether the connection is encrypted. host: a name in ASCII or an IP address, without brackets. port: 1 to
    65535.
    """

    protocol: Protocol
    tls: bool
    host: str
    port: int

    @classmethod
    def parse(cls, url: str, protocol: Protocol = "grpc") -> ServerAddress:
        """Read `host`, `host:port` or `[::1]:port`, with a scheme or without, and with or without a slash at the end.

        The schemes are grpc and grpcs (port 8001 by default: Triton speaks TLS there itself), http (8000) and https
        (443: Triton leaves that to a proxy in front of it). protocol: of an address without a scheme; it is not
        encrypted. Raises ServerError for anything else.
        """
        name, separator, rest = url.partition("://")
        scheme = _SCHEMES.get(name.lower() if separator else protocol)
        shown = repr(url)[1:-1]
        if scheme is None:
            raise ServerError(f"{shown}: there is no protocol {name!r}; choose from {', '.join(_SCHEMES)}")
        authority, _, path = (rest if separator else url).partition("/")
        if path or "?" in authority or "#" in authority:
            raise ServerError(f"{shown}: nothing may follow the port; {_EXAMPLE}")
        if "@" in authority:
            raise ServerError(f"{scheme.protocol} address with a user's name: servers know no users; {_EXAMPLE}")
        host, port = _split(authority, scheme.port)
        if not host:
            raise ServerError(f"{shown}: it names no host; {_EXAMPLE}")
        try:
            known_host = ascii_host(host)
        except ValueError:
            raise ServerError(f"{shown}: {host!r} is no host; {_EXAMPLE}") from None
        if not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
            raise ServerError(f"{shown}: port {port!r} is not one of 1 to 65535; {_EXAMPLE}")
        return cls(scheme.protocol, scheme.tls, known_host, int(port))

    @property
    def netloc(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def default_port(self) -> int:
        """The port at which such servers answer unless they are told otherwise."""
        return _SCHEMES[self._scheme(self.tls)].port

    def with_tls(self, tls: bool) -> str:
        """The address, with TLS or without, as `parse` reads it."""
        return f"{self._scheme(tls)}://{self.netloc}"

    def _scheme(self, tls: bool) -> str:
        return f"{self.protocol}s" if tls else self.protocol

    def __str__(self) -> str:
        return self.with_tls(self.tls)


def _split(authority: str, default_port: int) -> tuple[str, str]:
    """Host, without brackets, and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address."""
    if bracketed := re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", authority):
        host, port = bracketed[1], bracketed[2]
        return host if _is_ipv6(host) else authority, str(default_port) if port is None else port
    if _is_ipv6(authority):
        return authority, str(default_port)
    host, separator, port = authority.rpartition(":")
    return (host, port) if separator else (authority, str(default_port))


def ascii_host(host: str) -> str:
    """Make a host fit for every library: a name in ASCII (IDNA), an IPv4 address with its four numbers (gRPC knows no
    short forms such as 127.1), an IPv6 address as it is, without brackets. Raises ValueError for anything else."""
    if _is_ipv6(host):
        return host
    name = host.encode("idna").decode("ascii")  # a part that is empty or too long is a UnicodeError, so a ValueError
    if name.isdecimal() or not _HOST.fullmatch(name):  # a number is a port, which the system would take for an address
        raise ValueError(f"{host!r} is no host")
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return name


def _is_ipv6(host: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False
