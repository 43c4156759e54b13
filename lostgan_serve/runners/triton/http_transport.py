"""Calls to a Triton server over HTTP."""

from __future__ import annotations

import http.client
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TypeVar
from urllib.parse import quote

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors, TensorSpec
from lostgan_serve.runners.triton.address import ServerAddress
from lostgan_serve.runners.triton.connecting import connect
from lostgan_serve.runners.triton.proxies import Proxy
from lostgan_serve.runners.triton.tls import Certificates
from lostgan_serve.runners.triton.transport import CONNECT_S, CallError, Kind, checked, error_kind, triton_type

_JSON_SIZE = "Inference-Header-Content-Length"
"""Header with the length of the JSON that a message begins with, where binary data follow it."""

_MAX_JSON_BYTES = 64 * 2**20  # a server of thousands of models has statistics of some MiB
_MAX_HEADER_BYTES = 2**16  # of the JSON before an answer's tensors

_KINDS = {400: Kind.REFUSED, 404: Kind.MISSING}
_AWAY = (408, 429, 502, 503, 504)  # Triton's while it starts or stops, or those of a proxy before it

T = TypeVar("T")


class HttpTransport:
    """See `Transport`. tritonclient's own client runs on gevent and serves one thread only, so this one speaks HTTP
    itself. A connection is made for each call: tritonserver would wait half a minute for those kept open when it stops.
    """

    def __init__(self, address: ServerAddress, certificates: Certificates, proxy: Proxy | None) -> None:
        self._address, self._proxy = address, proxy
        self._context = certificates.context("http/1.1") if address.tls else None
        through_proxy = proxy is not None and not address.tls
        self._root = str(address) if through_proxy else ""
        self._headers = proxy.headers if proxy and through_proxy else {}

    def infer(self, model: str, tensors: Tensors, outputs: Sequence[TensorSpec], timeout_s: float) -> dict[str, Array]:
        batch = len(tensors[INPUT_NAMES[0]])
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "datatype": triton_type(tensors[name].dtype),
                        "shape": tensors[name].shape,
                        "parameters": {"binary_data_size": tensors[name].nbytes},
                    }
                    for name in INPUT_NAMES
                ],
                "outputs": [{"name": spec.name, "parameters": {"binary_data": True}} for spec in outputs],
            }
        ).encode()
        body = b"".join((header, *(tensors[name].tobytes() for name in INPUT_NAMES)))
        size = _MAX_HEADER_BYTES + sum(batch * math.prod(spec.dims) * spec.dtype.itemsize for spec in outputs)
        path = f"/v2/models/{quote(model, safe='')}/infer"
        answer, json_size = self._request("POST", path, timeout_s, size, body, {_JSON_SIZE: str(len(header))})
        return _understood(lambda: _tensors(answer, json_size, batch, outputs))

    def parameters(self, model: str, timeout_s: float) -> dict[str, str]:
        answer, _ = self._request("GET", f"/v2/models/{quote(model, safe='')}/config", timeout_s)
        return _understood(
            lambda: {
                key: str(value.get("string_value", ""))
                for key, value in json.loads(answer).get("parameters", {}).items()
            }
        )

    def batches(self, timeout_s: float) -> dict[str, dict[int, int]]:
        answer, _ = self._request("GET", "/v2/models/stats", timeout_s)
        return _understood(
            lambda: {
                str(model["name"]): {
                    int(batch["batch_size"]): int(batch["compute_infer"]["count"])
                    for batch in model.get("batch_stats", [])
                }
                for model in json.loads(answer)["model_stats"]
            }
        )

    def close(self) -> None:
        """Nothing is held between calls."""

    def _request(
        self,
        method: str,
        path: str,
        timeout_s: float,
        limit: int = _MAX_JSON_BYTES,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[bytes, int | None]:
        """The body of an answer, at most `limit` bytes, and the length of its JSON where it has another part."""
        try:
            with closing(self._connect(timeout_s)) as connection, _ended_after(connection, timeout_s):
                connection.request(method, self._root + path, body, self._headers | (headers or {}))
                response = connection.getresponse()
                answer = _body(response, limit)
        except (OSError, http.client.HTTPException) as error:
            raise CallError(Kind.CUT, error if str(error) else type(error).__name__) from error
        if response.status != http.client.OK:
            raise _fault(response, answer)
        json_size = response.getheader(_JSON_SIZE, "")
        return answer, int(json_size) if json_size.isdecimal() else None

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        try:
            return connect(self._address, self._context, self._proxy, min(timeout_s, CONNECT_S))
        except (OSError, http.client.HTTPException) as error:
            raise CallError(Kind.AWAY, error if str(error) else type(error).__name__) from error


@contextmanager
def _ended_after(connection: http.client.HTTPConnection, limit_s: float) -> Iterator[None]:
    """End a connection where the block takes longer: a socket's own limit is for each part that arrives, and there is
    no limit on parts. Raises CallError for a block that took longer, whatever it made of the end."""
    stream, late = connection.sock, threading.Event()  # the connection itself lets go of it where the answer ends both

    def end() -> None:
        late.set()
        with suppress(OSError):
            socket.socket.shutdown(stream, socket.SHUT_RDWR)  # TLS's own would let go of the state in use

    stream.settimeout(limit_s)
    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, CallError) as error:
        if not (late.is_set() or isinstance(error, TimeoutError)):
            raise
        late.set()
    finally:
        timer.cancel()
    if late.is_set():
        raise CallError(Kind.LATE, f"no answer within {limit_s:g} s")


def _body(response: http.client.HTTPResponse, limit: int) -> bytes:
    """Raises CallError for a body that is longer, compressed or cut off."""
    if encoding := response.getheader("Content-Encoding", "").replace("identity", ""):
        raise CallError(Kind.FOREIGN, f"its answer is compressed ({encoding}), which was not asked for")
    if response.length is not None and response.length > limit:
        raise CallError(
            Kind.FAULTY, f"its answer has {response.length} bytes, where {limit} are the most that is expected"
        )
    answer = response.read(limit + 1)
    if len(answer) > limit:
        raise CallError(Kind.FAULTY, f"its answer has more than {limit} bytes, the most that is expected")
    if response.length:
        raise CallError(Kind.CUT, f"its answer was cut off {response.length} bytes before its end")
    return answer


def _fault(response: http.client.HTTPResponse, answer: bytes) -> CallError:
    """The fault that an answer with an error's status tells of."""
    kind = Kind.AWAY if response.status in _AWAY else None
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return CallError(kind or Kind.FOREIGN, f"{response.status} {response.reason}")
    return CallError(error_kind(text) or kind or _KINDS.get(response.status, Kind.FAULTY), text)


def _tensors(answer: bytes, json_size: int | None, batch: int, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    position = len(answer) if json_size is None else json_size
    parts = {}
    for output in json.loads(answer[:position])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data = memoryview(answer)[position : position + size]
        parts[output["name"]] = output["datatype"], output["shape"], data
        position += size
    return {spec.name: checked(spec, batch, *parts.get(spec.name, ("missing", [], b""))) for spec in outputs}


def _understood(read: Callable[[], T]) -> T:
    """Read an answer by a function of its own. Raises CallError where the answer is not Triton's."""
    try:
        return read()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CallError(Kind.FOREIGN, f"its answer is not Triton's ({type(error).__name__})") from error
