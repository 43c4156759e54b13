"""A server under mixed traffic for long: whether its memory stays flat, its answers right and its latencies stable.

First clients that each wait for their answer find the server's capacity. Then requests come at random moments at a
share of it, whatever the server does, and a fixed part of them is wrong on purpose.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from lostgan_export.bench.soak_memory import Memory, MemorySampler
from lostgan_export.bench.soak_requests import KINDS, VALID, Wrong, send, valid_requests
from lostgan_serve.errors import ServerError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.triton import TritonRunner

_CLIENTS = 16  # two full batches of the bundled models: one is computed while the other waits
_IN_FLIGHT = 256
_TEXT = 160
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Traffic:
    """What is sent. minutes: for how long, after the capacity has been found for `capacity_s` seconds. share: of the
    capacity. wrong: the part of the requests that is wrong on purpose. seed: of all that is random."""

    minutes: float = 30.0
    share: float = 0.9
    wrong: float = 0.05
    capacity_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Minute:
    """Valid requests that were due in one minute: how many, how many were answered, and the latency of these from the
    moment they were due, in milliseconds."""

    sent: int
    answered: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Soaked:
    """What became of the traffic.

    capacity_per_s: answers a second that clients had which wait for each. rate_per_s: requests a second of the soak.
    sent: requests by kind. refused: wrong requests that were refused, by kind. errors: how often each other error came,
    as "KIND: text". different: answers that were not, byte for byte, the first answer to the same layout. memory: see
    `Memory`; None where no process was named.
    """

    minutes: tuple[Minute, ...]
    capacity_per_s: float
    rate_per_s: float
    sent: dict[str, int]
    refused: dict[str, int]
    errors: dict[str, int]
    different: int
    memory: Memory | None


@dataclass
class _Counts:
    """Counts of a soak that runs. latencies_s: of answered requests, by the minute that they were due in."""

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    due: Counter[int] = field(default_factory=Counter)
    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    different: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def soak(runner: TritonRunner, traffic: Traffic, pid: int | None, progress: Progress) -> Soaked:
    """Send traffic to a server.

    runner: asks the server, and does not wait for one that is away. pid: of `lostgan-serve serve`, where it runs on
    this machine: the memory of its processes is sampled. Raises ServerError where the server does not answer at first,
    and LostganError for a pid of no process.
    """
    requests = valid_requests(runner.manifest)
    firsts = [runner.run(tensors, ("image",))["image"] for tensors in requests]

    def ask(number: int) -> bool:
        """Whether the answer is the first one to the same layout."""
        answer = runner.run(requests[number % len(requests)], ("image",))["image"]
        return bool(np.array_equal(answer, firsts[number % len(requests)]))

    with progress.stage(f"finding the capacity for {traffic.capacity_s:g} s"):
        capacity = find_capacity(ask, traffic.capacity_s)
    rate = traffic.share * capacity
    counts = _Counts()
    with _sampled(pid, traffic) as sampler:
        _send_all(runner, ask, traffic, rate, counts, progress)
    return Soaked(
        minutes=_by_minute(counts),
        capacity_per_s=capacity,
        rate_per_s=rate,
        sent=dict(sorted(counts.sent.items())),
        refused=dict(sorted(counts.refused.items())),
        errors=dict(counts.errors.most_common()),
        different=counts.different,
        memory=sampler.memory() if sampler else None,
    )


def find_capacity(ask: Callable[[int], object], seconds: float, clients: int = _CLIENTS) -> float:
    """Answers a second that clients have who each wait for their answer. Raises what `ask` does."""
    start = time.perf_counter()

    def client(number: int) -> int:
        answered = 0
        while time.perf_counter() - start < seconds:
            ask(number + answered)
            answered += 1
        return answered

    with ThreadPoolExecutor(clients) as pool:
        answered = sum(pool.map(client, range(clients)))
    if not answered:
        raise ServerError(f"the server had no answer within {seconds:g} s; measure for longer")
    return answered / (time.perf_counter() - start)


def _send_all(
    runner: TritonRunner,
    ask: Callable[[int], bool],
    traffic: Traffic,
    rate_per_s: float,
    counts: _Counts,
    progress: Progress,
) -> None:
    """Send requests at random moments (a Poisson process) until the time is over, and wait for their answers."""
    total_s = 60 * traffic.minutes
    begin = time.perf_counter()
    wrong = [kind for kind in KINDS if kind.possible(runner.address)]
    with (
        ThreadPoolExecutor(_IN_FLIGHT) as pool,
        progress.count("soak, minutes", float(traffic.minutes)) as advance,
    ):
        for number, (due_s, kind) in enumerate(_moments(traffic, rate_per_s, wrong)):
            if due_s >= total_s:
                break
            time.sleep(max(0.0, begin + due_s - time.perf_counter()))
            pool.submit(_one, runner, ask, number, kind, begin, due_s, counts)
            advance(due_s / 60, f"{counts.errors.total()} errors")


def _moments(traffic: Traffic, rate_per_s: float, wrong: Sequence[Wrong]) -> Iterator[tuple[float, Wrong | None]]:
    """When each request is due, in seconds from the beginning, and how it is wrong; None for a valid one."""
    draw, due_s = random.Random(traffic.seed), 0.0
    while True:
        due_s += draw.expovariate(rate_per_s)
        yield due_s, draw.choice(wrong) if draw.random() < traffic.wrong else None


def _one(
    runner: TritonRunner,
    ask: Callable[[int], bool],
    number: int,
    kind: Wrong | None,
    begin: float,
    due_s: float,
    counts: _Counts,
) -> None:
    """Send one request and count what comes of it."""
    name = kind.name if kind else VALID
    fault = same = None
    try:
        if kind:
            send(kind, runner)
        else:
            same = ask(number)
    except Exception as error:  # it counts, whatever it is, and the soak goes on
        fault = f"{name}: {type(error).__name__}: {error}"[:_TEXT]
    latency_s = time.perf_counter() - begin - due_s
    with counts.lock:
        counts.sent[name] += 1
        if kind is None:
            counts.due[int(due_s // _MINUTE_S)] += 1
        if fault:
            counts.errors[fault] += 1
        elif kind:
            counts.refused[name] += 1
        else:
            counts.latencies_s.setdefault(int(due_s // _MINUTE_S), []).append(latency_s)
            counts.different += not same


def _by_minute(counts: _Counts) -> tuple[Minute, ...]:
    minutes = []
    for number in sorted(counts.due):
        latencies = np.array(counts.latencies_s.get(number, [np.nan])) * 1000
        p50, p99 = np.percentile(latencies, [50, 99])
        minutes.append(Minute(counts.due[number], len(counts.latencies_s.get(number, [])), float(p50), float(p99)))
    return tuple(minutes)


@contextmanager
def _sampled(pid: int | None, traffic: Traffic) -> Iterator[MemorySampler | None]:
    """Sample the memory of a process while the block runs, two hundred times or every second."""
    if pid is None:
        yield None
        return
    with MemorySampler(pid, every_s=max(1.0, 60 * traffic.minutes / 200)) as sampler:
        yield sampler
