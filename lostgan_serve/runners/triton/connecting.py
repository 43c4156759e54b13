"""Connections over TCP and TLS, by way of a proxy where there is one."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from typing import cast

from lostgan_serve.runners.triton.address import ServerAddress
from lostgan_serve.runners.triton.proxies import Proxy
from lostgan_serve.runners.triton.tls import NOT_TLS, Certificates, failed_handshake

_TRY_S = 3.0  # of an attempt that is made only for the sake of an error's message


def connect(
    address: ServerAddress, context: ssl.SSLContext | None, proxy: Proxy | None, limit_s: float
) -> http.client.HTTPConnection:
    """A connection to a server. context: of TLS; None for a plain one, which ends at the proxy where there is one.
    Raises OSError and HTTPException."""
    host, port = (proxy.host, proxy.port) if proxy else (address.host, address.port)
    connection = (
        http.client.HTTPSConnection(host, port, timeout=limit_s, context=context)
        if context
        else http.client.HTTPConnection(host, port, timeout=limit_s)
    )
    if context and proxy:
        connection.set_tunnel(address.host, address.port, proxy.headers)
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


def tls_reason(address: ServerAddress, certificates: Certificates, proxy: Proxy | None) -> str | None:
    """Why a server cannot be asked with TLS, or without it, in words; None where that is not the cause."""
    if address.tls:
        return _handshake_reason(address, certificates, proxy)
    if proxy is None and _speaks_tls(address):
        return f"it speaks TLS; give {address.with_tls(True)}"
    return None


def _handshake_reason(address: ServerAddress, certificates: Certificates, proxy: Proxy | None) -> str | None:
    alpn = "h2" if address.protocol == "grpc" else "http/1.1"
    try:
        with closing(connect(address, certificates.context(alpn), proxy, _TRY_S)) as connection:
            stream = cast(ssl.SSLSocket, connection.sock)
            if alpn == "h2" and stream.selected_alpn_protocol() != alpn:
                return f"it speaks TLS but not gRPC; try https://{address.netloc}"
            stream.recv(1)  # a server that misses a certificate says so after the handshake
    except ssl.SSLError as error:
        reason = failed_handshake(error, address.host, certificates.cert is not None)
    except ConnectionResetError:
        reason = NOT_TLS
    except (OSError, http.client.HTTPException):
        return None
    else:
        return None
    return f"{reason}; give {address.with_tls(False)}" if reason == NOT_TLS else reason


def _speaks_tls(address: ServerAddress) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        connect(address, context, None, _TRY_S).close()
    except (OSError, http.client.HTTPException) as error:
        return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
    return True
