"""The editor as it runs: a port of this machine, and uvicorn there, with limits on connections, until it is stopped."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from lostgan_serve.choices import EDITOR_PORT
from lostgan_serve.editor.answers import Editor
from lostgan_serve.editor.guard import HEADERS, LIMITS, App, Limits, Site
from lostgan_serve.editor.server import Queue, application
from lostgan_serve.editor.token import kept_token
from lostgan_serve.encoding import check
from lostgan_serve.errors import require
from lostgan_serve.layout import Layout
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.triton.addresses import LOOPBACK, endpoint, listen, resolve

if TYPE_CHECKING:
    import asyncio

    from uvicorn import Server


def edit(
    runner: Runner,
    layout: Layout | None = None,
    *,
    host: str = LOOPBACK,
    port: int = EDITOR_PORT,
    name: str = "model",
    command: Sequence[str] = ("lostgan-serve", "generate", "-"),
    limits: Limits = LIMITS,
    on_ready: Callable[[str], object] = print,
    progress: Progress = SILENT,
) -> None:
    """Serve the editor until Ctrl-C or SIGTERM.

    layout: that the page begins with. host: address or name of this machine to listen at. port: 0 for a free one. name,
    command: see `Editor`. on_ready: takes the URL to open, the token in it. Raises LayoutError for a layout that the
    model cannot generate or a browser cannot hold, ServerError for an address or port that cannot be used, and
    MissingExtraError.
    """
    require_packages()
    if layout is not None:
        check(layout, runner.manifest)
    ip = resolve(host)
    with listen(ip, port, "--port") as listening, closing(Queue(runner.concurrency, limits.waiting)) as queue:
        site, token = Site(host, ip, int(listening.getsockname()[1])), kept_token(progress)
        app = application(Editor(runner, name, command, layout), queue, site, token, limits, progress)
        if not ipaddress.ip_address(ip).is_loopback:
            progress.note(
                f"warning: --host {host} lets others reach the editor, and there is no TLS: whoever listens on the "
                "network can read the token"
            )
        on_ready(f"http://{endpoint(ip, site.port)}/#token={token}")
        http_server(app, limits).run([listening])


def require_packages() -> None:
    """Raise MissingExtraError unless what the editor needs is installed."""
    for package in ("starlette", "uvicorn"):
        require(package, "editor")


def http_server(app: App, limits: Limits) -> Server:
    """A server of the application that keeps the limits on connections."""
    from uvicorn import Config, Server

    return Server(
        Config(
            app,
            loop="asyncio",
            http=_protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # its log holds parts of requests
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=list(HEADERS.items()),
            limit_concurrency=limits.connections + 1,  # at which it refuses
            timeout_keep_alive=limits.headers_s,
            timeout_graceful_shutdown=0,
        )
    )


def _protocol() -> type[asyncio.Protocol]:
    """uvicorn's HTTP with limits: it has none on the time that headers take, and refuses new connections alike when
    there are many."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """A connection. Its clock, uvicorn's for idle ones, runs whenever no request is being answered."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
                self._drop_one()

        def data_received(self, data: bytes) -> None:
            """Take bytes. Until they are a request, the clock goes on."""
            self.conn.receive_data(data)
            self.handle_events()

        def send_400_response(self, _msg: str) -> None:
            """Refuse what is no HTTP."""
            self.transport.write(_BAD_REQUEST)
            self.transport.close()

        def _drop_one(self) -> None:
            """End the connection that has been idle for longest, which may be this one."""
            longest = min((each for each in self.connections if isinstance(each, Protocol)), key=Protocol._idle_until)
            self.connections.discard(longest)
            longest.transport.abort()

        def _idle_until(self) -> float:
            clock = self.timeout_keep_alive_task
            return clock.when() if clock else math.inf

    return Protocol


_BAD_REQUEST = "\r\n".join(
    [
        "HTTP/1.1 400 Bad Request",
        "Content-Type: text/plain; charset=utf-8",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
        "Connection: close",
        "",
        "This is no HTTP request.",
    ]
).encode()
