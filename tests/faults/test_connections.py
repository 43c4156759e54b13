"""Connections that are cut, slow or idle, beside clients that go on to have the right pictures."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from faults.injectors import Cutter, idle, trickling
from faults.load import Load
from faults.trial import Trial
from relays import listening

_CUTS = 60
_LONGEST = {
    "grpc": 8_000_000,
    "http": 5_000_000,
}  # the longest answer has 2 million bytes; gRPC sends many by one connection
_HELD_S = 5.0
_SLOW, _IDLE = 40, 400

_HEADER = b"POST /v2/models/lostgan_128/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
_SLOWLY = {
    "a header": ("http", b"GET /v2/health/ready HTTP/1.1\r\nX-Header: " + b"x" * 1000),
    "a body": ("http", _HEADER + b"x" * 1000),
    "a preface": ("grpc", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000)),
}


def cut(trial: Trial, cuts: int) -> None:
    with trial.serve() as server, ExitStack() as stack:
        cutters = {}
        for url in server.urls:
            protocol, _, netloc = url.partition("://")
            cutter = Cutter(netloc, trial.draw, _LONGEST[protocol])
            cutters[f"{protocol}://127.0.0.1:{stack.enter_context(listening(cutter))}"] = cutter
        with trial.load(*cutters) as load:
            client = trial.client(next(iter(cutters)))
            while sum(cutter.cuts for cutter in cutters.values()) < cuts:
                load.answers(1)
            client.finish(trial.pictures, trial.tally)
        trial.tally.faults += sum(cutter.cuts for cutter in cutters.values())
        assert all(cutter.cuts for cutter in cutters.values())


@pytest.mark.long
def test_connections_are_cut(trial: Trial) -> None:
    cut(trial, _CUTS)


@pytest.mark.long
@pytest.mark.parametrize("part", _SLOWLY)
def test_clients_that_send_slowly(trial: Trial, part: str) -> None:
    protocol, message = _SLOWLY[part]
    with trial.serve() as server, trial.load(*server.urls) as load:
        url = next(url for url in server.urls if url.startswith(protocol))
        with trickling(url.partition("://")[2], message, _SLOW):
            trial.tally.faults += _SLOW
            hold(load)


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_clients_that_say_nothing(trial: Trial, protocol: str) -> None:
    with trial.serve() as server, trial.load(*server.urls) as load:
        url = next(url for url in server.urls if url.startswith(protocol))
        with idle(url.partition("://")[2], _IDLE) as held:
            trial.tally.faults += len(held)
            hold(load)


def hold(load: Load) -> None:
    """See that pictures come all the while."""
    end = time.monotonic() + _HELD_S
    while time.monotonic() < end:
        load.answers(8, within_s=15)
