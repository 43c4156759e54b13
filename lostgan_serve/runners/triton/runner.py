"""A model of a Triton server as a runner: calls outlive a restart of the server, and errors say what to do."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lostgan_serve.choices import GRPC_PORT
from lostgan_serve.contract import Array, Tensors, output_specs
from lostgan_serve.errors import LostganError, ModelError, RequestError, ServerError, ServerUnavailableError
from lostgan_serve.manifest import Manifest
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners.triton.address import Protocol, ServerAddress
from lostgan_serve.runners.triton.connecting import tls_reason
from lostgan_serve.runners.triton.grpc_transport import GrpcTransport
from lostgan_serve.runners.triton.http_transport import HttpTransport
from lostgan_serve.runners.triton.proxies import proxy_for
from lostgan_serve.runners.triton.tls import Certificates
from lostgan_serve.runners.triton.transport import PASSING, CallError, Kind, Transport

PATIENCE_S = 60.0
"""How long a server that answered before is waited for, in seconds."""

_QUESTION_S = 20.0  # for an answer that costs the server no inference
_CHECK_EVERY_S = 1.0  # whether it is the same model still: no server starts anew in less
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

_NO_CERTIFICATES = Certificates()

T = TypeVar("T")


class TritonRunner:
    """Runs a model of a Triton server that follows lostgan-serve's contract; any number of threads may share one.

    url: see `ServerAddress.parse`. model: by default the only one that the server has. protocol: of a URL that names
    none. timeout_s: the longest wait for one answer, in seconds, the time in the server's queue included.
    certificates: for https:// and grpcs://; others need none. patience_s: how long to wait for a server that is away or
    whose queue is full, in seconds; by default PATIENCE_S for one that answered before, and not at all for the first
    answer. progress: is told that this waits. Both times are 0 or more, and not infinite.

    A request whose connection is lost is sent again: the same layout gives the same picture. Servers on this machine
    are asked directly, others by way of the proxy that the environment names. Raises ServerError for a wrong address,
    proxy or time, or where no Triton server answers there, InputError for a certificate that cannot be used, and
    ModelError where the server has no such model or the model is none of lostgan-serve's.
    """

    # One batch is computed while the one before it comes back and the next goes out to wait in the server's queue. More
    # would only wait there, and a request's time limit counts while it does.
    concurrency = 2

    def __init__(
        self,
        url: str = f"localhost:{GRPC_PORT}",
        model: str | None = None,
        protocol: Protocol = "grpc",
        timeout_s: float = 300.0,
        *,
        certificates: Certificates = _NO_CERTIFICATES,
        patience_s: float | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.address = ServerAddress.parse(url, protocol)
        _check_seconds(timeout_s=timeout_s, patience_s=patience_s)
        if model and not model.isprintable():
            raise ModelError(f"model {model!r}: no model has such a name; give one that the server lists")
        self._certificates, self._timeout_s, self._progress = certificates, timeout_s, progress
        self._patience_s = patience_s or 0.0
        self._proxy = proxy_for(self.address)
        transport = GrpcTransport if self.address.protocol == "grpc" else HttpTransport
        self._transport: Transport = transport(self.address, certificates, self._proxy)
        self._closed = threading.Event()
        self._returning = threading.Lock()
        self._answered_before = False
        self._last_seen = float("-inf")
        self._model = model or ""
        try:
            self._model = model or self._ask(self._only_model)
            self.manifest = self._ask(self._served_manifest)
        except BaseException:
            self._transport.close()
            raise
        self._answered_before, self._last_seen = True, time.monotonic()
        self._patience_s = PATIENCE_S if patience_s is None else patience_s

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`. The arrays are read-only: they are views of the server's message.

        Raises RequestError for tensors that the model refuses, ServerUnavailableError where the server stays away or
        does not answer in time, ServerError where its answer breaks the contract, and ModelError where another model
        has taken the place of the one that answered before.
        """
        specs = [spec for spec in output_specs(self.manifest.slots, self.manifest.resolution) if spec.name in outputs]

        def infer() -> dict[str, Array]:
            arrays = self._transport.infer(self._model, tensors, specs, self._timeout_s)
            if time.monotonic() - self._last_seen > _CHECK_EVERY_S:
                self._check_manifest()
            return arrays

        arrays = self._ask(infer)
        return {name: arrays[name] for name in outputs}

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._model

    def batch_counts(self) -> dict[int, int]:
        """How many batches of each size the server has computed of the model since it started. Its count may lag
        behind its answers by a moment."""
        return self._ask(lambda: self._transport.batches(self._question_s)).get(self._model, {})

    def close(self) -> None:
        """See `Runner.close`. Waiting calls end at once; over gRPC, those in flight do, too."""
        self._closed.set()
        self._transport.close()

    @property
    def _question_s(self) -> float:
        return min(self._timeout_s, _QUESTION_S)

    def _ask(self, call: Callable[[], T]) -> T:
        """The answer to a call, which is made again while the server is away or busy and patience lasts."""
        gives_up: float | None = None
        pauses = _pauses()
        while not self._closed.is_set():
            try:
                return call()
            except CallError as fault:
                failed = time.monotonic()
                gives_up = gives_up or failed + self._patience_s
                if fault.kind not in PASSING or failed >= gives_up:
                    raise self._explained(fault) from fault
                self._closed.wait(min(next(pauses), gives_up - failed))
                if fault.kind is not Kind.BUSY:
                    self._wait_for_return(fault, failed, gives_up)
        raise ServerError(f"{self.address}: this runner is closed")

    def _wait_for_return(self, fault: CallError, failed: float, gives_up: float) -> None:
        """Wait until the server answers; one thread does so for all. Raises ServerUnavailableError after `gives_up`."""
        with self._returning:
            if self._closed.is_set() or self._last_seen > failed or self._is_back(gives_up):
                return  # no more than a connection was lost
            with self._progress.stage(f"waiting for {self.address} to come back"):
                for pause in _pauses():
                    self._closed.wait(pause)
                    if self._closed.is_set() or self._is_back(gives_up):
                        return
                    if time.monotonic() >= gives_up:
                        raise self._explained(fault) from fault

    def _is_back(self, gives_up: float) -> bool:
        try:
            self._check_manifest(max(1.0, gives_up - time.monotonic()))
        except CallError as fault:
            if fault.kind in PASSING or fault.kind is Kind.LATE:
                return False
            raise self._explained(fault) from fault
        return True

    def _check_manifest(self, limit_s: float = _QUESTION_S) -> None:
        """Raise ModelError where the server's model is another one now, and CallError where it does not answer."""
        if not self._answered_before:
            self._transport.batches(min(self._question_s, limit_s))
        elif self._served_manifest(limit_s).serving_parameters() != self.manifest.serving_parameters():
            raise ModelError(f"{self.address}: another model is served as {self._model!r} now; run the command again")
        self._last_seen = time.monotonic()

    def _served_manifest(self, limit_s: float = _QUESTION_S) -> Manifest:
        parameters = self._transport.parameters(self._model, min(self._question_s, limit_s))
        return Manifest.from_serving_parameters(parameters, f"model {self._model!r} of {self.address}")

    def _only_model(self) -> str:
        models = self._models()
        if len(models) == 1:
            return models[0]
        if models:
            raise ModelError(f"{self.address}: it has several models; name one with --model: {', '.join(models)}")
        raise ModelError(f"{self.address}: the server has no model; export one with: lostgan-serve export")

    def _models(self) -> list[str]:
        return sorted(self._transport.batches(self._question_s))

    def _explained(self, fault: CallError) -> LostganError:
        """The error that says why a call has no answer, and how to mend that."""
        if fault.kind is Kind.BUSY:
            return ServerUnavailableError(
                f"{self.address}: the server's queue is full; try again later, or with fewer clients"
            )
        if fault.kind is Kind.LATE:
            return ServerUnavailableError(f"{self.address}: {fault.text}; the server is overloaded or stuck")
        if fault.kind in (Kind.MISSING, Kind.UNLOADED) and self._model:
            return ModelError(f"{self.address}: no model {self._model!r} is ready there; {self._others()}")
        if fault.kind is Kind.REFUSED and self._answered_before:
            return RequestError(f"{self.address}: {self._model} refuses these layouts: {fault.text}")
        if not self._answered_before and fault.kind is not Kind.FAULTY:
            if reason := tls_reason(self.address, self._certificates, self._proxy):
                return ServerError(f"{self.address}: {reason}")
            if fault.kind is not Kind.AWAY:
                return ServerError(
                    f"{self.address}: what answers there is not Triton's {self.address.protocol}, "
                    f"by default at port {self.address.default_port} ({fault.text})"
                )
        if fault.kind in PASSING:
            way = f" by way of the proxy {self._proxy}" if self._proxy else ""
            return ServerUnavailableError(
                f"{self.address}: no server is ready{way}; start one with: lostgan-serve serve, "
                f"or check the address ({fault.text})"
            )
        return ServerError(f"{self.address}: {fault.text}")

    def _others(self) -> str:
        try:
            return f"it has: {', '.join(self._models()) or 'none'}"
        except CallError:
            return "check its name and the address"


def _check_seconds(**times: float | None) -> None:
    """Raise ServerError for a time that no wait could end by, such as NaN."""
    for name, seconds in times.items():
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ServerError(f"{name}: a time is a number of seconds from 0 up, not {seconds}")


def _pauses() -> Iterator[float]:
    """Seconds to wait before each attempt: ever more, and not the same for all clients."""
    for attempt in itertools.count():
        yield min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
