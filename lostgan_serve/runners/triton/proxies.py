"""The proxies that the environment names (http_proxy, https_proxy, grpc_proxy), and the servers asked without one."""

from __future__ import annotations

import ipaddress
import socket
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from lostgan_serve.errors import ServerError
from lostgan_serve.runners.triton.address import ServerAddress, ascii_host

_DEFAULT_PORT = 80


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. host: a name in ASCII or an IP address. user: name and password as URLs have them, such as
    "ann:pass%20word"; empty where it asks for none."""

    host: str
    port: int
    user: str = ""

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read HOST:PORT, with the scheme http or without one. Raises ValueError for anything else."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not url.isprintable():
            raise ValueError(f"{url!r} is no HTTP proxy")
        user = parts.netloc.rpartition("@")[0]
        return cls(ascii_host(parts.hostname or ""), parts.port or _DEFAULT_PORT, user)

    @property
    def url(self) -> str:
        """The address, with the user where there is one."""
        return f"http://{self.user}@{self}" if self.user else f"http://{self}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that make it let this client through."""
        if not self.user:
            return {}
        name, _, password = self.user.partition(":")
        credentials = f"{unquote(name)}:{unquote(password)}"
        return {"Proxy-Authorization": f"Basic {b64encode(credentials.encode()).decode()}"}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_for(address: ServerAddress) -> Proxy | None:
    """The proxy by way of which to ask a server.

    None for a server on this machine, for one that no_proxy lists, and where no proxy is named. Raises ServerError for
    a proxy that is none for HTTP.
    """
    variables = getproxies()
    own = ("https" if address.tls else "http",)
    schemes = own if address.protocol == "http" else ("grpc", "https", "http")
    found = next(((f"{scheme}_proxy", variables[scheme]) for scheme in schemes if variables.get(scheme)), None)
    if found is None or proxy_bypass(address.netloc) or _is_local(address.host):
        return None
    variable, url = found
    try:
        return Proxy.parse(url)
    except ValueError:
        raise ServerError(
            f"{variable}: the proxy for {address} is to be http://HOST:PORT; or list the host in no_proxy"
        ) from None


def _is_local(host: str) -> bool:
    """Whether a name or address is one of this machine's own."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)}
    except (OSError, UnicodeError):  # a name that only the proxy knows
        return False
    return bool(found) and all(_is_own(ip) for ip in found)


def _is_own(ip: str) -> bool:
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback or mapped.is_unspecified:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))  # only a machine's own addresses can be bound
    except OSError:
        return False
    return True
