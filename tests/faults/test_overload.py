"""More work than a server can do: what is no longer wanted is not computed, and what is late is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
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

_AHEAD, _QUEUED, _CANCELLED = 40, 8, 7
_ARRIVED_S = 0.5
_MOST_WORK = 0.2  # of that of the cancelled requests
_SETTLED_S = 1.0
_LIMIT_S = 60.0

Cancel = Callable[[], object]


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_cancelled_requests_are_not_computed(trial: Trial, protocol: str) -> None:
    """Eight requests wait behind many others; seven are cancelled, which is to free at least 80% of their work."""
    ask = {"grpc": ask_grpc, "http": ask_http}[protocol]
    with trial.serve() as server, closing(runner_of(server, protocol)) as runner:
        tensors = encode(trial.truth.layouts[: runner.manifest.max_batch], runner.manifest)
        netloc = server.urls[protocol == "http"].partition("://")[2]
        before = computed(runner)
        kept = [ask(netloc, tensors) for _ in range(_AHEAD)]
        cancels = [ask(netloc, tensors) for _ in range(_QUEUED)]
        time.sleep(_ARRIVED_S)
        done = computed(runner) - before
        for cancel in cancels[:_CANCELLED]:
            cancel()
        trial.tally.faults += _CANCELLED
        wanted = len(kept) + _QUEUED - _CANCELLED
        wasted = settled(runner, before + wanted) - before - wanted
    trial.tally.answered += len(kept)
    trial.tally.told.append(f"{protocol}: {wasted} of {_CANCELLED} cancelled requests were computed")
    assert done < _AHEAD, "the queue was empty before anything was cancelled"
    assert 0 <= wasted <= _MOST_WORK * _CANCELLED, server.errors()


def runner_of(server: Serve, protocol: str) -> TritonRunner:
    return TritonRunner(server.urls[protocol == "http"], patience_s=_LIMIT_S)


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


def computed(runner: TritonRunner) -> int:
    """How many full batches the server has computed since it started."""
    return int(np.sum([count for size, count in runner.batch_counts().items() if size == runner.manifest.max_batch]))


def settled(runner: TritonRunner, least: int) -> int:
    """How many full batches the server has computed, a second after `least` of them or after a minute."""
    end = time.monotonic() + _LIMIT_S
    while computed(runner) < least and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(_SETTLED_S)
    return computed(runner)
