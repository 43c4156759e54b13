"""Where a server listens: an address of this machine, and three of its ports that are free."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from lostgan_serve.errors import ServerError

LOOPBACK, ALL = "127.0.0.1", "0.0.0.0"

_REACH_S = 5.0


@dataclass(frozen=True)
class Addresses:
    """An address of this machine and the ports there.

    ip: IPv4 or IPv6, without brackets; 0.0.0.0 or :: for all addresses of the machine.
    """

    ip: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def host(self) -> str:
        """The address under which this machine reaches the server."""
        return _reached(self.ip)

    def endpoint(self, port: int) -> str:
        """See `endpoint`."""
        return endpoint(self.ip, port)

    def options(self) -> list[str]:
        """The options of tritonserver that say where to listen."""
        # without the prefix its HTTP library takes anything for IPv4, and what is not for 255.255.255.255
        web_ip = f"ipv6:{self.ip}" if _is_ipv6(self.ip) else self.ip
        return [
            f"--http-address={web_ip}",
            f"--http-port={self.http_port}",
            f"--grpc-address={bracketed(self.ip)}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={web_ip}",
            f"--metrics-port={self.metrics_port}",
        ]


def find_addresses(host: str, http_port: int, grpc_port: int, metrics_port: int) -> Addresses:
    """Resolve `host`, replace each port of 0 by a free one, and see that the others are free.

    host: a name or an address; of a name that has several, an IPv4 address is taken. Raises ServerError that names the
    option to change.
    """
    ip = resolve(host)
    wanted = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
    with ExitStack() as stack:  # all are held at once, so that no port is given twice
        held: dict[str, int] = {}
        for option, port in wanted.items():
            if port in held.values():
                other = next(name for name, number in held.items() if number == port)
                raise ServerError(f"port {port} is asked for twice, with {other} and {option}; change one of them")
            listening = stack.enter_context(listen(ip, port, option))
            held[option] = int(listening.getsockname()[1])
        addresses = Addresses(ip, *held.values())
        _see_that_it_is_reachable(addresses)
    return addresses


def endpoint(ip: str, port: int) -> str:
    """`host:port`, as URLs have it, under which this machine reaches a server that listens at an address."""
    return f"{bracketed(_reached(ip))}:{port}"


def resolve(host: str) -> str:
    """The address of a name, IPv4 where it has one; of an address, itself. Raises ServerError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        reason = getattr(error, "strerror", None) or error
        raise ServerError(
            f"--host {host!r}: no such address or name ({reason}); give an address of this machine, such as {LOOPBACK}"
        ) from error
    address = min(found, key=lambda entry: entry[0] != socket.AF_INET)[-1]
    if any(address[3:]):  # of IPv6: the number of the zone
        raise ServerError(f"--host {host!r}: no address with a zone can be used; give another of this machine")
    return str(address[0])


def listen(ip: str, port: int, option: str) -> socket.socket:
    """Listen at a port of this machine, 0 for a free one. option: that chose the port. Raises ServerError."""
    try:
        return socket.create_server((ip, port), family=socket.AF_INET6 if _is_ipv6(ip) else socket.AF_INET)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise ServerError(
                f"--host {ip}: this machine has no such address ({error.strerror}); give one of those that "
                "`ip address` lists"
            ) from error
        raise ServerError(
            f"port {port} of {ip} cannot be used ({error.strerror}); choose another with {option}"
        ) from error


def _see_that_it_is_reachable(addresses: Addresses) -> None:
    """Raise ServerError for an address such as a broadcast's: one can listen there, and nobody can connect."""
    try:
        socket.create_connection((addresses.host, addresses.http_port), _REACH_S).close()
    except OSError as error:
        raise ServerError(
            f"--host {addresses.ip}: this machine cannot connect to it ({error.strerror or error}); "
            "give one of those that `ip address` lists"
        ) from error


def _reached(ip: str) -> str:
    address = ipaddress.ip_address(ip)
    if not address.is_unspecified:
        return ip
    return LOOPBACK if address.version == 4 else "::1"


def bracketed(ip: str) -> str:
    """An address as it stands before a colon and a port."""
    return f"[{ip}]" if _is_ipv6(ip) else ip


def _is_ipv6(ip: str) -> bool:
    return ":" in ip
