"""HTTP: the routes of Triton's that face a network, and the metrics."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from lostgan_serve.errors import require
from lostgan_serve.triton.gateway.backend import SERVICE, Backend, CallError
from lostgan_serve.triton.gateway.messages import as_json
from lostgan_serve.triton.gateway.rest import JSON_SIZE, request_of, response_of
from lostgan_serve.triton.gateway.settings import Settings
from lostgan_serve.web.asgi import (
    Message,
    Receive,
    RefusedError,
    Send,
    answer,
    disconnected,
    headers,
    read_body,
    refuse,
)

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

_MODEL = r"/v2/models/(?P<model>[^/]{1,256})(?:/versions/(?P<version>[0-9]{1,18}))?"
_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "CANCELLED": 503,
    "UNIMPLEMENTED": 501,
}
_JSON = [(b"content-type", b"application/json")]
_BINARY = [(b"content-type", b"application/octet-stream")]
_METRICS_ALONE = b"there is /metrics here, and nothing else\n"  # no JSON: clients see whose port it is
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]

Answer = tuple[int, bytes, list[tuple[bytes, bytes]]]
"""A status, a body and its headers."""

Handler = Callable[..., Awaitable[Answer]]
"""Takes a request's scope and body, and the model's name and version where its path has them."""


class HttpApp:
    """The ASGI application at both ports of HTTP: that of metrics has nothing else, and the other no metrics."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._settings, self._backend = settings, backend
        self._pb: Any = require("tritonclient.grpc", "server").service_pb2
        stats = self._asked("ModelStatistics")
        self._routes: dict[tuple[str, re.Pattern[str]], Handler] = {
            ("GET", re.compile(r"/v2/health/live")): self._live,
            ("GET", re.compile(r"/v2/health/ready")): self._ready,
            ("GET", re.compile(r"/v2/?")): self._asked("ServerMetadata"),
            ("GET", re.compile(r"/v2/models/stats")): stats,
            ("GET", re.compile(_MODEL)): self._asked("ModelMetadata"),
            ("GET", re.compile(_MODEL + "/config")): self._asked("ModelConfig", lambda answer: answer.config),
            ("GET", re.compile(_MODEL + "/stats")): stats,
            ("GET", re.compile(_MODEL + "/ready")): self._model_ready,
            ("POST", re.compile(_MODEL + "/infer")): self._infer,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            found = await self._answer(scope, receive)
        except RefusedError as error:
            self._backend.refuse(f"HTTP {error.status}")
            await refuse(error, send)
        except CallError as error:
            await refuse(RefusedError(_STATUSES.get(error.code, 500), error.text), send)
        except asyncio.CancelledError:
            await refuse(RefusedError(503, "the server is stopping"), send)
            raise
        else:
            await answer(send, *found)

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        """Raises RefusedError and CallError."""
        if list(headers(scope, b"content-encoding")):
            raise RefusedError(415, "compressed requests are not taken here")
        if list(headers(scope, b"origin")):
            raise RefusedError(403, "requests of web pages are not taken here")
        path, method = scope["path"], scope["method"]
        if scope["server"][1] == self._settings.metrics_port:
            if path != "/metrics" or method != "GET":
                self._backend.refuse("HTTP 404")
                return 404, _METRICS_ALONE, _TEXT
            return 200, await self._metrics(), _TEXT
        for (wanted, pattern), handler in self._routes.items():
            if match := pattern.fullmatch(path):
                if method != wanted:
                    raise RefusedError(405, f"{method} is not taken here; use {wanted}")
                limits = self._settings.limits
                body = await read_body(scope, receive, limits.body_bytes, limits.body_s)
                names = {name: unquote(value or "") for name, value in match.groupdict().items()}
                return await _unless_gone(handler(scope, body, **names), receive)
        raise RefusedError(404, "there is nothing at this path; inference, health and metadata are served here")

    async def _live(self, *_: Any) -> Answer:
        return 200, b"", _JSON

    async def _ready(self, *_: Any) -> Answer:
        return (200 if await self._backend.is_ready() else 503), b"", _JSON

    async def _model_ready(self, _scope: Message, _body: bytes, model: str, version: str) -> Answer:
        request = self._pb.ModelReadyRequest(name=model, version=version)
        ready = await self._backend.is_ready() and await self._backend.call(
            SERVICE + "ModelReady", request.SerializeToString()
        )
        return (200 if ready else 503), b"", _JSON

    def _asked(self, call: str, pick: Callable[[Any], Any] = lambda answer: answer) -> Handler:
        """A route that asks tritonserver and gives a part of its answer as JSON."""
        request, response = getattr(self._pb, f"{call}Request"), getattr(self._pb, f"{call}Response")

        async def handler(_scope: Message, _body: bytes, **names: str) -> Answer:
            named = {"name": names["model"], "version": names["version"]} if names else {}
            message = await self._backend.call(SERVICE + call, request(**named).SerializeToString())
            return 200, json.dumps(as_json(pick(response.FromString(message)))).encode(), _JSON

        return handler

    async def _infer(self, scope: Message, body: bytes, model: str, version: str) -> Answer:
        size = next(headers(scope, JSON_SIZE.lower().encode()), None)
        request, binary = request_of(model, version, body, size)
        found, head = response_of(await self._backend.infer(request), binary)
        return 200, found, _JSON if head is None else [*_BINARY, (JSON_SIZE.encode(), str(head).encode())]

    async def _metrics(self) -> bytes:
        """tritonserver's metrics, and the gateway's own."""
        status = self._backend.status
        probes = {f'{{model="{name}"}}': taken for name, taken in (status.probe_s or {}).items()}
        refused = {f'{{reason="{reason}"}}': count for reason, count in sorted(self._backend.refused.items())}
        own = [
            _metric("lostgan_serve_ready", "gauge", "Whether the models answer, and rightly.", {"": int(status.ready)}),
            _metric("lostgan_serve_restarts_total", "counter", "Starts after the first.", {"": status.restarts}),
            _metric("lostgan_serve_probe_seconds", "gauge", "Time of the last probe of a model.", probes),
            _metric("lostgan_serve_under_way", "gauge", "Inferences under way.", {"": self._backend.under_way}),
            _metric("lostgan_serve_refused_total", "counter", "Requests that were not passed on.", refused),
        ]
        return await self._backend.metrics() + "".join(own).encode()


def _metric(name: str, kind: str, about: str, values: Mapping[str, float]) -> str:
    """A metric as Prometheus reads it. values: by their labels."""
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    return "\n".join([*lines, *(f"{name}{labels} {value}" for labels, value in values.items())]) + "\n"


async def _unless_gone(work: Awaitable[Answer], receive: Receive) -> Answer:
    """The outcome of `work`, which is cancelled when the client goes away."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
    if working.done() and not working.cancelled():
        return working.result()
    return 499, b"", _JSON  # which nobody receives
