"""The tritonserver behind the gateway, and how much it is given to do at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lostgan_serve.errors import require
from lostgan_serve.triton.gateway.matching import Question
from lostgan_serve.triton.gateway.settings import Settings, Status

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"

TRUE = b"\x08\x01"
"""A message whose one field is true, as those that say ready are."""

QUESTION_S, INFERENCE_S = 20.0, 300.0
"""The longest wait for an answer, in seconds, where the client names none."""

_METRICS_S, _METRICS_BYTES = 5.0, 2**24

QUEUE_FULL = "Exceeds maximum queue size"
"""Triton's own words, which clients know."""


class CallError(Exception):
    """A call that has no answer. code: a name of gRPC's, such as UNAVAILABLE."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Backend:
    """Calls to tritonserver, as bytes. Make it inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._grpc: Any = require("grpc", "server")
        self._pb: Any = require("tritonclient.grpc", "server").service_pb2
        self._settings = settings
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        quick = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel: Any = self._grpc.aio.insecure_channel(settings.sockets.grpc, [*unlimited, *quick])
        self.under_way = 0
        self.refused: Counter[str] = Counter()

    @property
    def status(self) -> Status:
        """What the process that watches tritonserver said last."""
        return Status.read(Path(self._settings.folder))

    def refuse(self, reason: str) -> None:
        """Count a request that was not passed on."""
        self.refused[reason] += 1

    async def call(self, method: str, request: bytes, timeout_s: float | None = None) -> bytes:
        """The answer to a call that is no inference. method: its whole name. timeout_s: the client's limit. Raises
        CallError."""
        return await self._call(method, request, timeout_s or QUESTION_S, there=self.status.ready)

    async def infer(self, request: Any, timeout_s: float | None = None) -> Any:
        """The ModelInferResponse to a ModelInferRequest, and to no other. Raises CallError; where it is cancelled,
        tritonserver drops the request."""
        async with self._place():
            question = Question(request)
            message = await self._call(INFER, question.message, timeout_s or INFERENCE_S, there=True)
            response = self._pb.ModelInferResponse.FromString(message)
            if not question.is_answered_by(response):
                self.refuse("another request's answer")
                raise CallError("UNAVAILABLE", "tritonserver gave the answer to another request; try again")
            return response

    async def is_ready(self) -> bool:
        """Whether all models can be asked: tritonserver says so, and nothing speaks against it."""
        if not self.status.ready:
            return False
        try:
            answer = await self._call(SERVICE + "ServerReady", b"", QUESTION_S, there=True)
        except CallError:
            return False
        return answer == TRUE

    async def metrics(self) -> bytes:
        """tritonserver's metrics as Prometheus reads them; none where it is away."""
        try:
            return await asyncio.wait_for(self._metrics(), _METRICS_S)
        except (OSError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            return b""

    async def close(self) -> None:
        await self._channel.close()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Take one of the places for inferences under way. Raises CallError where there is none."""
        if not self.status.ready:
            self.refuse("not ready")
            raise CallError("UNAVAILABLE", f"the server is not ready: {self.status.reason}")
        if self.under_way >= self._settings.waiting:
            self.refuse("queue full")
            raise CallError("UNAVAILABLE", f"{QUEUE_FULL}: {self.under_way} requests are being answered; try again")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _call(self, method: str, request: bytes, timeout_s: float, *, there: bool) -> bytes:
        """there: whether tritonserver is, which the channel may not have found out yet."""
        try:
            call = self._channel.unary_unary(method)(request, timeout=timeout_s, wait_for_ready=there)
            return await call  # type: ignore[no-any-return]
        except self._grpc.aio.AioRpcError as error:
            raise CallError(error.code().name, error.details() or error.code().name) from error
        except self._grpc.aio.UsageError as error:  # the channel is closed
            raise CallError("UNAVAILABLE", "the server is stopping") from error

    async def _metrics(self) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._settings.sockets.metrics, limit=_METRICS_BYTES)
        try:
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            await writer.drain()
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return body if b" 200 " in head.partition(b"\r\n")[0] else b""
