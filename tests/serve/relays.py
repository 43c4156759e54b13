"""What may stand between a client and a server: relays that encrypt, cut off or refuse, and an HTTP proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Handler = Callable[[socket.socket], object]


@contextmanager
def listening(handle: Handler) -> Iterator[int]:
    """Serve each connection by `handle` in a thread of its own while the block runs; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def address_of(netloc: str) -> tuple[str, int]:
    host, _, port = netloc.rpartition(":")
    return host, int(port)


class Relay:
    """Passes connections on to a server. context: TLS to be spoken with clients.

    answered: bytes that the server sent. cut: how many of the connections that follow end after 1000 bytes of answers.
    """

    def __init__(self, target: str, context: ssl.SSLContext | None = None) -> None:
        self.target, self.cut, self.answered, self.connections = target, 0, 0, 0
        self._context = context

    def __call__(self, client: socket.socket) -> None:
        self.connections += 1
        if self._context:
            client = self._context.wrap_socket(client, server_side=True)
        with client, socket.create_connection(address_of(self.target)) as server:
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            left = None
            while data := server.recv(65536):
                if self.cut and left is None and len(data) > 2000:
                    self.cut, left = self.cut - 1, 1000
                if left is not None:
                    client.sendall(data[:left])
                    return
                self.answered += len(data)
                client.sendall(data)


class HttpProxy:
    """Takes CONNECT and absolute URIs. asked: the first line of each request. answer: sent to all in place of both."""

    def __init__(self, answer: bytes = b"") -> None:
        self.asked: list[str] = []
        self.headers: list[str] = []
        self._answer = answer

    def __call__(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := client.recv(65536)):
                return
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        first, *headers = head.decode().split("\r\n")
        self.asked.append(first)
        self.headers += headers
        if self._answer:
            client.sendall(self._answer)
            return
        method, target, version = first.split(" ")
        netloc, slash, path = target.removeprefix("http://").partition("/")
        host, port = address_of(netloc)
        with socket.create_connection(("127.0.0.1" if host.endswith(".example") else host, port)) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                server.sendall(rest)
            else:
                lines = [f"{method} {slash}{path} {version}", *headers, "Connection: close", "", ""]
                server.sendall("\r\n".join(lines).encode() + rest)
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            _copy(server, client)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def answering(*answers: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n") -> Handler:
    """Gives each request of a connection the next answer, over all connections, and the last one from then on."""
    left = list(answers)

    def handle(client: socket.socket) -> None:
        while client.recv(2**20):
            body = left.pop(0) if len(left) > 1 else left[0]
            client.sendall((head % len(body) if b"%d" in head else head) + body)

    return handle


def server_context(folder: Path, name: str, alpn: str, clients_ca: Path | None = None) -> ssl.SSLContext:
    """TLS of a server with the certificate NAME.pem and the key NAME.key. clients_ca: who signs the clients'."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.set_alpn_protocols([alpn])
    if clients_ca:
        context.load_verify_locations(clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
