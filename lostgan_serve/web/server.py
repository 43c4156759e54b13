"""uvicorn with limits on connections, headers and their time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lostgan_serve.web.asgi import App, Limits

if TYPE_CHECKING:
    import asyncio

    from uvicorn import Server


_NO_HTTP = "This is no HTTP request."


def http_server(app: App, limits: Limits, headers: Mapping[str, str], **settings: Any) -> Server:
    """A server of the application that keeps the limits on connections. headers: of every answer. settings: more of
    uvicorn's."""
    from uvicorn import Config, Server

    return Server(
        Config(
            app,
            loop="asyncio",
            http=_protocol(headers),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # its log holds parts of requests
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=list(headers.items()),
            limit_concurrency=limits.connections + 1,  # at which it refuses
            timeout_keep_alive=limits.headers_s,
            timeout_graceful_shutdown=0,
            **settings,
        )
    )


def _protocol(headers: Mapping[str, str]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP with limits: it has none on the time that headers take, and refuses new connections alike when
    there are many."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    lines = ["HTTP/1.1 400 Bad Request", "Content-Type: text/plain; charset=utf-8"]
    lines += [*(f"{name}: {value}" for name, value in headers.items()), "Connection: close", "", _NO_HTTP]
    bad_request = "\r\n".join(lines).encode()

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
            self.transport.write(bad_request)
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
