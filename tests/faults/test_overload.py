"""More work than a server can do: what is no longer wanted is not computed, and what is late is refused."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

from faults.serving import Serve
from faults.trial import Trial
from lostgan_serve.contract import INPUT_NAMES, Tensors
from lostgan_serve.encoding import encode
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.runners.triton.transport import triton_type

MODEL = "lostgan_128"

_QUEUED, _CANCELLED = 8, 7
_MOST_WORK = 0.2  # of that of the cancelled requests
_SETTLED_S = 1.0

Cancel = Callable[[], object]


@pytest.mark.parametrize("protocol", ["grpc", pytest.param("http", marks=pytest.mark.long)])
@pytest.mark.slow
def test_cancelled_requests_are_not_computed(trial: Trial, protocol: str) -> None:
    """The model's process is stopped for a moment, so that requests wait in the queue until seven are cancelled."""
    ask = {"grpc": ask_grpc, "http": ask_http}[protocol]
    with trial.serve() as server, closing(TritonRunner(server.urls[0])) as runner:
        tensors = encode(trial.truth.layouts[: runner.manifest.max_batch], runner.manifest)
        netloc = server.urls[protocol == "http"].partition("://")[2]
        before = computed(runner)
        with stopped(server):
            ask(netloc, tensors)  # it is on its way to the model already, and holds up the others
            time.sleep(_SETTLED_S / 2)
            cancels = [ask(netloc, tensors) for _ in range(_QUEUED)]
            time.sleep(_SETTLED_S / 2)
            for cancel in cancels[:_CANCELLED]:
                cancel()
            trial.tally.faults += _CANCELLED
            time.sleep(_SETTLED_S / 2)
        batches = settled(runner) - before
    trial.tally.answered += batches
    wasted = batches - 2  # the first one, and the one that was not cancelled
    trial.tally.told.append(f"{protocol}: {wasted} of {_CANCELLED} cancelled requests were computed")
    assert 0 <= wasted <= _MOST_WORK * _CANCELLED


def ask_grpc(netloc: str, tensors: Tensors) -> Cancel:
    """Send a request, and return a function that cancels it."""
    client = triton_grpc.InferenceServerClient(netloc)
    inputs = []
    for name in INPUT_NAMES:
        inputs.append(triton_grpc.InferInput(name, tensors[name].shape, triton_type(tensors[name].dtype)))
        inputs[-1].set_data_from_numpy(tensors[name])
    call = client.async_infer(MODEL, inputs, lambda **_: None)
    return lambda: call.cancel()


def ask_http(netloc: str, tensors: Tensors) -> Cancel:
    """Send a request, and return a function that closes its connection."""
    inputs = []
    for name in INPUT_NAMES:
        inputs.append(triton_http.InferInput(name, tensors[name].shape, triton_type(tensors[name].dtype)))
        inputs[-1].set_data_from_numpy(tensors[name])
    body, size = triton_http.InferenceServerClient.generate_request_body(inputs)
    connection = HTTPConnection(netloc)
    connection.request("POST", f"/v2/models/{MODEL}/infer", body, {"Inference-Header-Content-Length": str(size)})
    return connection.close


@contextmanager
def stopped(server: Serve) -> Iterator[None]:
    """The process of the model is stopped while the block runs, for less than it takes `serve` to start another."""
    server.hit("stub", signal.SIGSTOP)
    try:
        yield
    finally:
        server.hit("stub", signal.SIGCONT)


def computed(runner: TritonRunner) -> int:
    """How many full batches the server has computed since it started."""
    return int(np.sum([count for size, count in runner.batch_counts().items() if size == runner.manifest.max_batch]))


def settled(runner: TritonRunner) -> int:
    """How many full batches the server has computed once there are no more for a second."""
    last, since = computed(runner), time.monotonic()
    while time.monotonic() - since < _SETTLED_S:
        time.sleep(0.1)
        if (now := computed(runner)) != last:
            last, since = now, time.monotonic()
    return last
