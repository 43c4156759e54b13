"""What may stand between a client and a server: relays that encrypt, cut off or refuse, and an HTTP proxy."""

from __future__ import annotations

import re
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

    answered: bytes that the server sent. cut: how many of the longer answers that follow end after 1000 bytes. silent:
    while it is set, what clients send is held back; held: set once something was.
    """

    def __init__(self, target: str, context: ssl.SSLContext | None = None) -> None:
        self.target, self.cut, self.answered = target, 0, 0
        self.silent, self.held = threading.Event(), threading.Event()
        self._context = context

    def __call__(self, client: socket.socket) -> None:
        if self._context:
            client = self._context.wrap_socket(client, server_side=True)
        with client, socket.create_connection(address_of(self.target)) as server:
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            left = None
            while data := server.recv(65536):
                if self.cut and left is None and len(data) > 8000:
                    self.cut, left = self.cut - 1, 1000
                if left is not None:
                    client.sendall(data[:left])
                    socket.socket.shutdown(client, socket.SHUT_RDWR)
                    return
                self.answered += len(data)
                client.sendall(data)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.silent.is_set():
                    self.held.set()
                else:
                    server.sendall(data)
            server.shutdown(socket.SHUT_WR)


class HttpProxy:
    """Takes CONNECT and absolute URIs. asked: the first line of each request. answer: sent to all in place of both."""

    def __init__(self, answer: bytes = b"") -> None:
        self.asked: list[str] = []
        self.headers: list[str] = []
        self._answer = answer

    def __call__(self, client: socket.socket) -> None:
        head, rest = _request(client)
        if not head:
            return
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


class Answers:
    """A server of one model, over HTTP. configuration: the answer about it. answers: to inferences, in turn, and the
    last one from then on. asked: how many there were."""

    def __init__(self, configuration: bytes, *answers: bytes) -> None:
        self.asked, self._configuration, self._answers = 0, configuration, answers

    def __call__(self, client: socket.socket) -> None:
        head, _ = _request(client)
        if head.startswith(b"POST"):
            self.asked += 1
            client.sendall(self._answers[min(self.asked, len(self._answers)) - 1])
        elif head:
            client.sendall(self._configuration)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer over HTTP. length: the one that it claims to have."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


def _request(client: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request, and its body; empty where the client has gone."""
    head, separator, body = b"", b"", b""
    while not separator:
        if not (data := client.recv(65536)):
            return b"", b""
        head, separator, body = (head + data).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    while length and len(body) < int(length[1]):
        body += client.recv(65536)
    return head, body


def server_context(folder: Path, name: str, alpn: str, clients_ca: Path | None = None) -> ssl.SSLContext:
    """TLS of a server with the certificate NAME.pem and the key NAME.key. clients_ca: who signs the clients'."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.set_alpn_protocols([alpn])
    if clients_ca:
        context.load_verify_locations(clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
