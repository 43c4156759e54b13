"""Calls to a Triton server over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors, TensorSpec
from lostgan_serve.errors import require
from lostgan_serve.runners.triton.address import ServerAddress
from lostgan_serve.runners.triton.proxies import Proxy
from lostgan_serve.runners.triton.tls import Certificates
from lostgan_serve.runners.triton.transport import CONNECT_S, CallError, Kind, checked, error_kind, triton_type

_MAX_MESSAGE_BYTES = 2**31 - 1
_RECONNECT_MS = 100, 1000  # the first pause between attempts to connect, and the longest

_KINDS = {
    "UNAVAILABLE": Kind.AWAY,
    "CANCELLED": Kind.CUT,
    "DEADLINE_EXCEEDED": Kind.LATE,
    "INVALID_ARGUMENT": Kind.REFUSED,
    "NOT_FOUND": Kind.MISSING,
    "UNIMPLEMENTED": Kind.FOREIGN,
}
_CUT = ("Socket closed", "RST_STREAM", "Stream removed", "Connection reset", "Broken pipe", "GOAWAY")


class GrpcTransport:
    """See `Transport`. Closing it ends the calls in flight at once."""

    def __init__(self, address: ServerAddress, certificates: Certificates, proxy: Proxy | None) -> None:
        triton = require("tritonclient.grpc", "server")
        self._grpc: Any = require("grpc", "server")
        self._messages: Any = triton.service_pb2
        target = f"dns:///{quote(address.netloc, safe='[]:')}"
        if address.tls:
            certificates.context("h2")  # which says better than gRPC what is wrong with a file
            credentials = self._grpc.ssl_channel_credentials(*certificates.contents())
            self._channel: Any = self._grpc.secure_channel(target, credentials, _options(proxy))
        else:
            self._channel = self._grpc.insecure_channel(target, _options(proxy))
        self._stub: Any = triton.service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, model: str, tensors: Tensors, outputs: Sequence[TensorSpec], timeout_s: float) -> dict[str, Array]:
        request = infer_request(self._messages, model, tensors, [spec.name for spec in outputs])
        answer = self._call(self._stub.ModelInfer, request, timeout_s)
        found = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=False))
        about = {output.name: (output.datatype, list(output.shape)) for output in answer.outputs}
        batch = len(tensors[INPUT_NAMES[0]])
        return {
            spec.name: checked(spec, batch, *about.get(spec.name, ("missing", [])), found.get(spec.name, b""))
            for spec in outputs
        }

    def parameters(self, model: str, timeout_s: float) -> dict[str, str]:
        answer = self._call(self._stub.ModelConfig, self._messages.ModelConfigRequest(name=model), timeout_s)
        return {key: value.string_value for key, value in answer.config.parameters.items()}

    def batches(self, timeout_s: float) -> dict[str, dict[int, int]]:
        # the repository's index, which lists models too, is an admin API
        answer = self._call(self._stub.ModelStatistics, self._messages.ModelStatisticsRequest(), timeout_s)
        return {
            model.name: {int(batch.batch_size): int(batch.compute_infer.count) for batch in model.batch_stats}
            for model in answer.model_stats
        }

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except ValueError as error:  # the channel was closed meanwhile
            raise CallError(Kind.CUT, error) from error
        except self._grpc.RpcError as error:
            status, text = error.code().name, error.details() or error.code().name
            kind = error_kind(text) or (Kind.CUT if any(words in text for words in _CUT) else None)
            kind = kind or _KINDS.get(status, Kind.FAULTY)
            raise CallError(kind, f"no answer within {timeout_s:g} s" if kind is Kind.LATE else text) from error


def infer_request(messages: Any, model: str, tensors: Tensors, outputs: Sequence[str]) -> Any:
    """The message that asks a model for some outputs. messages: tritonclient's service_pb2."""
    return messages.ModelInferRequest(
        model_name=model,
        inputs=[
            {"name": name, "datatype": triton_type(tensors[name].dtype), "shape": tensors[name].shape}
            for name in INPUT_NAMES
        ],
        outputs=[{"name": name} for name in outputs],
        raw_input_contents=[tensors[name].tobytes() for name in INPUT_NAMES],
    )


def _options(proxy: Proxy | None) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.min_reconnect_backoff_ms", int(1000 * CONNECT_S)),  # by its name a pause, in fact an attempt's limit
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS[1]),
        ("grpc.dns_ares_query_timeout", int(1000 * CONNECT_S)),
        ("grpc.http_proxy", proxy.url) if proxy else ("grpc.enable_http_proxy", 0),
    ]
