"""The gateway as it runs: three ports of this machine, until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lostgan_serve.errors import LostganError, require
from lostgan_serve.triton.addresses import listen
from lostgan_serve.triton.gateway.backend import Backend
from lostgan_serve.triton.gateway.http import HEADERS, HttpApp
from lostgan_serve.triton.gateway.rpc import grpc_server
from lostgan_serve.triton.gateway.settings import Settings
from lostgan_serve.web.server import http_server

LISTENING = "listening"
"""The line that the gateway prints when all of its ports take requests."""

_GRACE_S = 1.0  # for answers that tritonserver has given


def main(settings: str) -> None:
    """The gateway's process. settings: in JSON."""
    try:
        run(Settings(**json.loads(settings)))
    except LostganError as error:
        sys.exit(f"error: {error}")


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises ServerError where a port cannot be used, and MissingExtraError."""
    require("uvicorn", "server")
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    ports = {"--http-port": settings.http_port, "--metrics-port": settings.metrics_port}
    with ExitStack() as stack:
        sockets = [stack.enter_context(listen(settings.ip, port, option)) for option, port in ports.items()]
        backend = Backend(settings)
        rpc = await grpc_server(settings, backend)
        web = http_server(
            HttpApp(settings, backend),
            settings.limits,
            HEADERS,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        web.capture_signals = _no_signals  # type: ignore[method-assign]

        def stop() -> None:
            web.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await rpc.start()
        told = asyncio.create_task(_told(web))
        await web.serve(sockets)
        await told
        await rpc.stop(_GRACE_S)
        await backend.close()


async def _told(web: Any) -> None:
    while not (web.started or web.should_exit):
        await asyncio.sleep(0.01)
    print(LISTENING, flush=True)  # to the process that started this one


@contextmanager
def _no_signals() -> Iterator[None]:
    """Leave signals to `_run`, which stops gRPC, too."""
    yield
