"""gRPC: calls pass as they are, if they are among those that face a network."""

from __future__ import annotations

import resource
from functools import partial
from pathlib import Path
from typing import Any

from lostgan_serve.errors import ServerError, require
from lostgan_serve.triton.addresses import bracketed
from lostgan_serve.triton.gateway.backend import INFER, SERVICE, TRUE, Backend, CallError
from lostgan_serve.triton.gateway.settings import Settings

_CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
)
_ALLOWED = {SERVICE + name for name in _CALLS}
_READY = {SERVICE + "ServerReady", SERVICE + "ModelReady"}
_LIVE = SERVICE + "ServerLive"
_HEALTH = "/grpc.health.v1.Health/Check"
_FALSE = b""
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # values of an enumeration

_HANDSHAKE_S, _IDLE_S = 10, 60
_METADATA_BYTES = 2**14
_IDENTITY_ALONE = 1  # of the algorithms of compression: a message may not grow in memory
_CALLS_OF_A_CONNECTION = 512  # well beyond the queue, which says why it refuses; gRPC resets streams without a word


async def grpc_server(settings: Settings, backend: Backend) -> Any:
    """A server of gRPC that listens, and is to be started. Raises ServerError where its port cannot be used."""
    grpc: Any = require("grpc", "server")

    class Forwarding(grpc.GenericRpcHandler):  # type: ignore[misc]
        """Answers the calls that are allowed; gRPC itself says UNIMPLEMENTED to others."""

        def service(self, details: Any) -> Any:
            if details.method in _ALLOWED or details.method == _HEALTH:
                return grpc.unary_unary_rpc_method_handler(partial(_answered, backend, grpc, details.method))
            backend.refuse("no such call")
            return None

    server = grpc.aio.server(
        handlers=(Forwarding(),),
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", settings.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ALONE),
            ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
            # gRPC ends no idle connection for a new one, so there is room for as many as half of all files
            ("grpc.max_allowed_incoming_connections", resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2),
            ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_S),
            ("grpc.max_connection_idle_ms", 1000 * _IDLE_S),
        ],
    )
    address = f"{bracketed(settings.ip)}:{settings.grpc_port}"
    try:
        if settings.tls_cert and settings.tls_key:
            pair = Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes()
            server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServerError(f"{address}: gRPC cannot listen there ({error}); choose another --grpc-port") from error
    return server


async def _answered(backend: Backend, grpc: Any, method: str, request: bytes, context: Any) -> bytes:
    if method == _LIVE:
        return TRUE
    if method == _HEALTH:
        return _SERVING if await backend.is_ready() else _NOT_SERVING
    if method in _READY and not await backend.is_ready():
        return _FALSE
    try:
        if method == INFER:
            return await _inferred(backend, request, context.time_remaining())
        return await backend.call(method, request, context.time_remaining())
    except CallError as error:
        await context.abort(grpc.StatusCode[error.code], error.text)
        raise  # abort does


async def _inferred(backend: Backend, request: bytes, timeout_s: float | None) -> bytes:
    """Raises CallError."""
    protobuf, pb = require("google.protobuf.message", "server"), require("tritonclient.grpc", "server").service_pb2
    try:
        message = pb.ModelInferRequest.FromString(request)
    except protobuf.DecodeError as error:
        raise CallError("INVALID_ARGUMENT", "the request is no ModelInferRequest") from error
    answer: bytes = (await backend.infer(message, timeout_s)).SerializeToString()
    return answer
