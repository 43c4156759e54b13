"""A server against the model that it serves, and the machine that a benchmark's figures are of.

Both take turns within each round, and a figure is the median over the rounds, so that whatever else the machine does
falls on both alike.
"""

from __future__ import annotations

import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lostgan_export.bench_formulations import layouts_for
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.errors import LostganError, ModelError, require
from lostgan_serve.runners import Runner
from lostgan_serve.runners.onnxrt import OnnxRunner, usable_cores
from lostgan_serve.runners.triton import TritonRunner

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """A closed loop of clients, each with one layout on its way at a time.

    images_per_s: of the server. in_process: images/s of the same model.onnx in this process, in batches of the sizes
    that the server formed. share: median over the rounds of their ratio. latency: of a request, in milliseconds.
    batch_sizes: how many batches of each size the server ran; mean_batch: images in a batch.
    """

    outputs: tuple[str, ...]
    concurrency: int
    images_per_s: float
    in_process: float
    share: float
    latency_p50_ms: float
    latency_p95_ms: float
    mean_batch: float
    batch_sizes: dict[int, int]


def bench_server(
    repository: Path, model: str, url: str, concurrency: int, rounds: int, progress: Progress
) -> list[Served]:
    """Measure a server's throughput, asked for the image alone and for every output, against the same model in this
    process. url: host:port of the server's gRPC, with or without grpc://. Raises LostganError for another protocol,
    ModelError where the server's model is not the one in `repository`, and ServerError."""
    url = url.removeprefix("grpc://").rstrip("/")
    if "://" in url:
        raise LostganError(f"--url {url}: bench measures gRPC; give its address as HOST:PORT, such as localhost:8001")
    local, remote = OnnxRunner(repository / model), TritonRunner(url, model)
    try:
        if remote.manifest.serving_parameters() != local.manifest.serving_parameters():
            raise ModelError(
                f"{url} serves another {model} than {repository / model}; restart it, or name its repository"
            )
        statistics_of = _Statistics(url, model)
        return [
            _bench_outputs(local, remote, statistics_of, outputs, concurrency, rounds, progress)
            for outputs in (("image",), OUTPUT_NAMES)
        ]
    finally:
        remote.close()
        local.close()


def _bench_outputs(
    local: Runner,
    remote: Runner,
    batch_counts: Callable[[], Mapping[int, int]],
    outputs: Sequence[str],
    concurrency: int,
    rounds: int,
    progress: Progress,
) -> Served:
    loop = _ClosedLoop(remote, outputs, concurrency)
    served, in_process, latencies = [], [], []
    sizes: dict[int, int] = {}
    for number in range(-1, rounds):  # the first is a warm-up
        progress(f"{' + '.join(outputs)}: {f'round {number + 1} of {rounds}' if number >= 0 else 'warming up'}")
        before = batch_counts()
        images_per_s, round_latencies = loop.run()
        formed = {size: count - before.get(size, 0) for size, count in batch_counts().items()}
        formed = {size: count for size, count in sorted(formed.items()) if count > 0}
        pace = _in_process_pace(local, outputs, formed)
        if number >= 0:
            served.append(images_per_s)
            in_process.append(pace)
            latencies += round_latencies
            for size, count in formed.items():
                sizes[size] = sizes.get(size, 0) + count
    quantiles = statistics.quantiles(latencies, n=20, method="inclusive")
    return Served(
        outputs=tuple(outputs),
        concurrency=concurrency,
        images_per_s=statistics.median(served),
        in_process=statistics.median(in_process),
        share=statistics.median(a / b for a, b in zip(served, in_process, strict=True)),
        latency_p50_ms=1000 * statistics.median(latencies),
        latency_p95_ms=1000 * quantiles[-1],
        mean_batch=sum(size * count for size, count in sizes.items()) / sum(sizes.values()),
        batch_sizes=dict(sorted(sizes.items())),
    )


class _ClosedLoop:
    """Clients that each send their next layout when the last one is answered."""

    REQUESTS = 8  # of each client in a round; the first and the last are not counted, as not every client is at work

    def __init__(self, runner: Runner, outputs: Sequence[str], clients: int) -> None:
        self.runner, self.outputs, self.clients = runner, outputs, clients
        batch = layouts_for(runner.manifest, clients)
        self.layouts = [{name: array[k : k + 1] for name, array in batch.items()} for k in range(clients)]

    def run(self) -> tuple[float, list[float]]:
        """Images per second, and the seconds that each counted request took."""
        barrier = threading.Barrier(self.clients)
        with ThreadPoolExecutor(self.clients) as pool:
            spans = [
                span for spans in pool.map(lambda k: self._client(k, barrier), range(self.clients)) for span in spans
            ]
        spans.sort(key=lambda span: span[1])
        counted = spans[self.clients : -self.clients]
        elapsed = counted[-1][1] - spans[self.clients - 1][1]
        return len(counted) / elapsed, [end - start for start, end in counted]

    def _client(self, number: int, barrier: threading.Barrier) -> list[tuple[float, float]]:
        """Start and end of each of a client's requests."""
        spans = []
        barrier.wait()
        for _ in range(self.REQUESTS):
            start = time.perf_counter()
            self.runner.run(self.layouts[number], self.outputs)
            spans.append((start, time.perf_counter()))
        return spans


def _in_process_pace(runner: Runner, outputs: Sequence[str], batches: Mapping[int, int]) -> float:
    """Images per second of a runner that is given the same batches, one after another."""
    work = [layouts_for(runner.manifest, size) for size, count in batches.items() for _ in range(count)]
    start = time.perf_counter()
    for tensors in work:
        runner.run(tensors, outputs)
    return sum(size * count for size, count in batches.items()) / (time.perf_counter() - start)


class _Statistics:
    """How many batches of each size a server has run so far."""

    def __init__(self, url: str, model: str) -> None:
        self._client = require("tritonclient.grpc", "server").InferenceServerClient(url)
        self._model = model

    def __call__(self) -> dict[int, int]:
        answer = self._client.get_inference_statistics(self._model)
        return {
            int(batch.batch_size): int(batch.compute_infer.count)
            for model in answer.model_stats
            for batch in model.batch_stats
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    from lostgan_export.onnx_export import tool_versions

    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **tool_versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def served_table(rows: Sequence[Served]) -> list[str]:
    lines = [
        f"{'outputs':26} {'served/s':>9} {'in process/s':>13} {'share':>7} {'p50 ms':>8} {'p95 ms':>8} {'batch':>6}"
    ]
    return lines + [
        f"{' '.join(r.outputs):26} {r.images_per_s:9.3f} {r.in_process:13.3f} {r.share:7.1%} {r.latency_p50_ms:8.0f} "
        f"{r.latency_p95_ms:8.0f} {r.mean_batch:6.2f}"
        for r in rows
    ]


def as_json(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
