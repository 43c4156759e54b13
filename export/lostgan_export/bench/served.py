"""A server under load: its throughput beside that of the model which it serves, and how long its answers take.

Server and model take turns within each round, and a figure is the median over the rounds, so that whatever else the
machine does falls on both alike.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lostgan_export.bench.formulations import layouts_for
from lostgan_export.bench.report import table
from lostgan_serve.choices import RUNNER_VARIABLE
from lostgan_serve.contract import OUTPUT_NAMES, Tensors, rows
from lostgan_serve.errors import LostganError, ModelError
from lostgan_serve.progress import Progress
from lostgan_serve.runners import AUTO, Runner, open_runner
from lostgan_serve.runners.triton import ServerAddress, TritonRunner

_STATISTICS_LAG_S = 5.0

Span = tuple[float, float]
"""When a request was due or sent, and when it was answered, in seconds."""


@dataclass(frozen=True)
class Served:
    """A server under a load.

    images_per_s: of the server. in_process: images/s of the same model in this process, in batches of the sizes that
    the server formed; share: median over the rounds of their ratio; both None in an open loop, where the clients set
    the pace. latency: of a request, in milliseconds. batch_sizes: how many batches of each size the server ran;
    mean_batch: images in a batch.
    """

    load: str
    outputs: tuple[str, ...]
    images_per_s: float
    in_process: float | None
    share: float | None
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    mean_batch: float
    batch_sizes: dict[int, int]


class Load(Protocol):
    """How requests come. saturating: whether the server sets the pace. requests: how many there are."""

    saturating: bool

    @property
    def requests(self) -> int: ...

    def run(self, ask: Callable[[int], object]) -> tuple[float, list[Span]]:
        """Have `ask` called with the number of each request. Images per second, and the requests that count."""
        ...


@dataclass(frozen=True)
class ClosedLoop:
    """Clients that each send their next layout when the last one is answered."""

    clients: int
    requests_each: int = 8
    saturating = True

    @property
    def requests(self) -> int:
        return self.clients * self.requests_each

    def __str__(self) -> str:
        return f"{self.clients} clients"

    def run(self, ask: Callable[[int], object]) -> tuple[float, list[Span]]:
        """Images per second are of the whole load: answers come a batch at a time, so that a span cut out of it would
        count the batches at its ends by luck. The first and the last latencies do not count, as not every client is at
        work."""
        barrier = threading.Barrier(self.clients)

        def client(number: int) -> list[Span]:
            barrier.wait()
            return [_timed(ask, number) for _ in range(self.requests_each)]

        with ThreadPoolExecutor(self.clients) as pool:
            spans = sorted((span for own in pool.map(client, range(self.clients)) for span in own), key=_end)
        return _images_per_s(spans), spans[self.clients : -self.clients]


@dataclass(frozen=True)
class OpenLoop:
    """Layouts that come at random moments (a Poisson process) whatever the server does, as from many people. What a
    request waits, it waits from the moment it was due."""

    rate_per_s: float
    requests: int = 64
    draw: random.Random = field(default_factory=lambda: random.Random(0))  # of all rounds, which differ by it
    saturating = False

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s"

    def run(self, ask: Callable[[int], object]) -> tuple[float, list[Span]]:
        waits = [self.draw.expovariate(self.rate_per_s) for _ in range(self.requests)]
        due = time.perf_counter()
        with ThreadPoolExecutor(self.requests) as pool:
            futures = []
            for number, wait in enumerate(waits):
                due += wait
                time.sleep(max(0.0, due - time.perf_counter()))
                futures.append(pool.submit(_timed, ask, number, due))
            spans = [future.result() for future in futures]
        return _images_per_s(spans), spans


def bench_server(model: Path, url: str, load: Load, rounds: int, progress: Progress) -> list[Served]:
    """Put a server under a load, asked for the image alone and for every output. In a closed loop the same model, in
    this process and run by what LOSTGAN_SERVE_RUNNER names, as in the embedded server, is measured beside it.

    model: its folder in the repository; the server knows it by that name. url: host:port of the server's gRPC, with or
    without grpc://. Raises LostganError for another protocol, ModelError where the server's model is another, and
    ServerError.
    """
    if ServerAddress.parse(url).protocol != "grpc":
        raise LostganError(f"--url {url}: bench measures gRPC; give its address as HOST:PORT, such as localhost:8001")
    with (
        closing(open_runner(os.environ.get(RUNNER_VARIABLE) or AUTO, model, progress)) as local,
        closing(TritonRunner(url, model.name)) as remote,
    ):
        if remote.manifest.serving_parameters() != local.manifest.serving_parameters():
            raise ModelError(f"{url} serves another {model.name} than {model}; restart it, or name its repository")
        return [
            _bench_outputs(local if load.saturating else None, remote, outputs, load, rounds, progress)
            for outputs in (("image",), OUTPUT_NAMES)
        ]


def _bench_outputs(
    local: Runner | None,
    remote: TritonRunner,
    outputs: Sequence[str],
    load: Load,
    rounds: int,
    progress: Progress,
) -> Served:
    layouts = _one_by_one(remote)

    def ask(number: int) -> None:
        remote.run(layouts[number % len(layouts)], outputs)

    served, in_process, latencies = [], [], []
    sizes: Counter[int] = Counter()
    with progress.count(f"{' + '.join(outputs)}, rounds", 1 + rounds) as advance:
        for number in range(1 + rounds):
            before = Counter(remote.batch_counts())
            images_per_s, spans = load.run(ask)
            formed = _formed(remote, before, load.requests)
            pace = _in_process_pace(local, outputs, formed) if local else None
            if number > 0:  # the first is a warm-up
                served.append(images_per_s)
                in_process += [pace] if pace else []
                latencies += [1000 * (end - start) for start, end in spans]
                sizes += formed
            advance(number + 1, "")
    percent = statistics.quantiles(latencies, n=100, method="inclusive")
    return Served(
        load=str(load),
        outputs=tuple(outputs),
        images_per_s=statistics.median(served),
        in_process=statistics.median(in_process) if local else None,
        share=statistics.median(a / b for a, b in zip(served, in_process, strict=True)) if local else None,
        latency_p50_ms=percent[49],
        latency_p95_ms=percent[94],
        latency_p99_ms=percent[98],
        mean_batch=sum(size * count for size, count in sizes.items()) / sizes.total(),
        batch_sizes=dict(sorted(sizes.items())),
    )


def _formed(runner: TritonRunner, before: Counter[int], images: int) -> Counter[int]:
    """The batches that the server formed of `images` layouts. It counts a batch a moment after it has answered."""
    end = time.monotonic() + _STATISTICS_LAG_S
    while True:
        formed = Counter(runner.batch_counts()) - before
        if sum(size * count for size, count in formed.items()) >= images or time.monotonic() > end:
            return formed
        time.sleep(0.02)


def _one_by_one(runner: Runner, count: int = 8) -> list[Tensors]:
    batch = layouts_for(runner.manifest, count)
    return [rows(batch, k, k + 1) for k in range(count)]


def _timed(ask: Callable[[int], object], number: int, due: float | None = None) -> Span:
    start = time.perf_counter() if due is None else due
    ask(number)
    return start, time.perf_counter()


def _end(span: Span) -> float:
    return span[1]


def _images_per_s(spans: Sequence[Span]) -> float:
    return len(spans) / (max(map(_end, spans)) - min(start for start, _ in spans))


def _in_process_pace(runner: Runner, outputs: Sequence[str], batches: Mapping[int, int]) -> float:
    """Images per second of a runner that is given the same batches, one after another."""
    work = [layouts_for(runner.manifest, size) for size, count in batches.items() for _ in range(count)]
    start = time.perf_counter()
    for tensors in work:
        runner.run(tensors, outputs)
    return sum(size * count for size, count in batches.items()) / (time.perf_counter() - start)


def served_table(rows: Sequence[Served]) -> list[str]:
    return table(
        ("load", "asked for", "images/s", "in process", "share", "p50 ms", "p95 ms", "p99 ms", "mean batch"),
        [
            (
                r.load,
                "all outputs" if r.outputs == OUTPUT_NAMES else " ".join(r.outputs),
                f"{r.images_per_s:.2f}",
                f"{r.in_process:.2f}" if r.in_process else "",
                f"{r.share:.1%}" if r.share else "",
                f"{r.latency_p50_ms:.0f}",
                f"{r.latency_p95_ms:.0f}",
                f"{r.latency_p99_ms:.0f}",
                f"{r.mean_batch:.1f}",
            )
            for r in rows
        ],
    )
