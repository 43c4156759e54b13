"""Inference on a Triton server, over gRPC or HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors
from lostgan_serve.errors import LostganError, ModelError, ServerError, require
from lostgan_serve.manifest import Manifest

Protocol = Literal["grpc", "http"]

_DEFAULT_PORTS = {"grpc": 8001, "http": 8000}
_QUEUE_FULL = "Exceeds maximum queue size"
_RETRY_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)

T = TypeVar("T")


class TritonRunner:
    """Runs a model of a Triton server that follows lostgan-serve's contract; any number of threads may share one.

    url: host:port; a prefix http:// or grpc:// settles the protocol. model: by default the only one that the server
    has. timeout_s: the longest wait for one answer, in seconds, the time in the server's queue included. Raises
    ServerError where no Triton server answers there, and ModelError where it has no such model or the model is none of
    lostgan-serve's.
    """

    # One batch is computed while the one before it comes back and the next goes out to wait in the server's queue. More
    # would only wait there, and a request's time limit counts while it does.
    concurrency = 2

    def __init__(
        self,
        url: str = "localhost:8001",
        model: str | None = None,
        protocol: Protocol = "grpc",
        timeout_s: float = 300.0,
    ) -> None:
        if url.startswith(("grpc://", "http://")):
            protocol = "grpc" if url.startswith("grpc") else "http"
            url = url.partition("://")[2].rstrip("/")
        if url.startswith(("https://", "grpcs://")):
            raise ServerError(f"{url}: TLS is not supported; give http://host:port or grpc://host:port")
        self._url, self._protocol, self._timeout_s = url, protocol, timeout_s
        self._triton = require(f"tritonclient.{protocol}", "server")
        self._utils = require("tritonclient.utils", "server")
        self._client: Any = (
            _HttpClient(url, timeout_s) if protocol == "http" else self._triton.InferenceServerClient(url)
        )
        self._options = {"client_timeout": timeout_s} if protocol == "grpc" else {}
        self._as_json = {"as_json": True} if protocol == "grpc" else {}
        self._connected = False
        self._model = model or ""
        if not model:
            self._model = self._only_model()
        self.manifest = self._manifest()
        self._connected = True

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. The arrays are read-only: they are views of the server's message."""
        wanted = [self._triton.InferRequestedOutput(name) for name in outputs]

        def infer() -> Any:
            inputs = [self._input(name, tensors[name]) for name in INPUT_NAMES]
            return self._client.infer(self._model, inputs, outputs=wanted, **self._options)

        result = self._ask(infer)
        return {name: result.as_numpy(name) for name in outputs}

    def close(self) -> None:
        """See `Runner.close`. Over gRPC, calls in flight end at once."""
        self._client.close()

    def _input(self, name: str, array: Array) -> Any:
        tensor = self._triton.InferInput(name, list(array.shape), self._utils.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor

    def _manifest(self) -> Manifest:
        answer = self._ask(lambda: self._client.get_model_config(self._model, **self._as_json, **self._options))
        parameters = answer.get("config", answer).get("parameters", {})
        source = f"model {self._model!r} of {self._url}"
        return Manifest.from_serving_parameters(
            {key: value.get("string_value", "") for key, value in parameters.items()}, source
        )

    def _ask(self, call: Callable[[], T]) -> T:
        """The answer to a call; while the server's queue is full the call is made again. Raises ServerError and
        ModelError."""
        waits = iter(_RETRY_WAITS_S)
        while True:
            try:
                return call()
            except (self._utils.InferenceServerException, OSError, http.client.HTTPException) as error:
                wait = next(waits, None) if _QUEUE_FULL in str(error) else None
                if wait is None:
                    raise self._explained(error) from error
            time.sleep(wait)

    def _explained(self, error: Exception) -> LostganError:
        """What a failed call means, and what to do."""
        of_triton = isinstance(error, self._utils.InferenceServerException)
        status = str(error.status()).removeprefix("StatusCode.") if of_triton else ""  # type: ignore[attr-defined]
        text = str(error.message() if of_triton else error) or type(error).__name__  # type: ignore[attr-defined]
        text = _printable(text.strip().partition("\n")[0])
        server = f"{self._protocol}://{self._url}"
        if _QUEUE_FULL in text:
            return ServerError(f"{server}: the server's queue is full; try again later, or with fewer clients")
        if status in ("INVALID_ARGUMENT", "400"):
            return ModelError(f"{server}: {self._model} refuses these layouts: {text}")
        if status in ("NOT_FOUND", "404") and self._model:
            return ModelError(f"{server}: no model {self._model!r} is ready there; {self._others()}")
        if status == "DEADLINE_EXCEEDED" or isinstance(error, TimeoutError):
            return ServerError(f"{server}: no answer within {self._timeout_s:g} s; the server is overloaded or stuck")
        foreign = isinstance(error, http.client.HTTPException) or "Socket closed" in text or status == "UNIMPLEMENTED"
        if foreign and not self._connected:
            port = _DEFAULT_PORTS[self._protocol]
            return ServerError(
                f"{server}: what answers there is not Triton's {self._protocol}, by default at port {port} ({text})"
            )
        if status in ("UNAVAILABLE", "503", "UNKNOWN", "") or foreign:
            return ServerError(
                f"{server}: no server is ready; start one with: lostgan-serve serve, or check the address ({text})"
            )
        return ServerError(f"{server}: {text}")

    def _models(self) -> list[str]:
        """The models that the server has. Its statistics list them; its repository's index is an admin API."""
        answer = self._client.get_inference_statistics(**self._as_json, **self._options)
        return sorted({_printable(model["name"]) for model in answer.get("model_stats", [])})

    def _only_model(self) -> str:
        models = self._ask(self._models)
        if len(models) == 1:
            return models[0]
        server = f"{self._protocol}://{self._url}"
        if models:
            raise ModelError(f"{server}: it has several models; name one with --model: {', '.join(models)}")
        raise ModelError(f"{server}: the server has no model; export one with: lostgan-serve export")

    def _others(self) -> str:
        try:
            return f"it has: {', '.join(self._models()) or 'none'}"
        except (self._utils.InferenceServerException, OSError, http.client.HTTPException):
            return "check its name and the address"


def _printable(text: str) -> str:
    """What a server says, fit for a terminal."""
    return "".join(c for c in text if c.isprintable())[:300]


class _HttpClient:
    """The part of tritonclient.http.InferenceServerClient that is needed here, for any thread.

    The original runs on gevent: it serves one thread only, and leaves two open files behind for each thread that has
    used it. A new connection for each call costs a millisecond and has no state to lose.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._triton = require("tritonclient.http", "server").InferenceServerClient
        self._exception = require("tritonclient.utils", "server").InferenceServerException

    def get_model_config(self, model: str) -> Any:
        return self._parsed(self._request("GET", f"/v2/models/{quote(model, safe='')}/config")[0])

    def get_inference_statistics(self) -> Any:
        return self._parsed(self._request("GET", "/v2/models/stats")[0])

    def infer(self, model: str, inputs: Sequence[Any], *, outputs: Sequence[Any]) -> Any:
        body, json_size = self._triton.generate_request_body(inputs, outputs=outputs)
        headers = {"Inference-Header-Content-Length": str(json_size)}
        answer, json_size = self._request("POST", f"/v2/models/{quote(model, safe='')}/infer", body, headers)
        return self._triton.parse_response_body(answer, header_length=json_size)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, int | None]:
        """The body of an answer, and the length of the JSON that it begins with where binary data follow it."""
        with closing(http.client.HTTPConnection(self._url, timeout=self._timeout_s)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = response.read()
        if response.status != http.client.OK:
            raise self._exception(self._parsed(answer).get("error", response.reason), status=str(response.status))
        json_size = response.getheader("Inference-Header-Content-Length")
        return answer, int(json_size) if json_size else None

    @staticmethod
    def _parsed(answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise http.client.HTTPException("its answer is not JSON") from error
