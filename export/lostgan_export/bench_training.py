"""The training step against the same one in the straightforward formulation: pace and peak memory.

Each runs in a process of its own, since a process has one peak; they take turns step by step, so that whatever else the
machine does falls on both.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from lostgan_serve.errors import TrainingError

PLAIN, OURS = "as the paper writes it", "lostgan-serve"


@dataclass(frozen=True)
class StepTiming:
    """seconds: of a step, median over the rounds. peak_mib: most memory that the process held (on a GPU: that torch
    allocated there). speedup: over the plain formulation."""

    candidate: str
    batch: int
    seconds: float
    images_per_s: float
    peak_mib: float
    speedup: float
    rounds: tuple[float, ...]


def bench_training(
    variant: str, ch: int, batch: int, precision: str, rounds: int, progress: Callable[[str], None]
) -> list[StepTiming]:
    """Time a step of both networks, on drawn scenes. Raises TrainingError where a process ends before its time, most
    often for want of memory."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="lostgan-bench-") as folder:
        progress("drawing scenes")
        data = _scenes(Path(folder) / "scenes", variant, batch)
        ends = {}
        for name in (PLAIN, OURS):
            ends[name], theirs = context.Pipe()
            arguments = (theirs, name == PLAIN, data, variant, ch, batch, precision)
            context.Process(target=_steps, args=arguments, daemon=True).start()
            theirs.close()
        seconds: dict[str, list[float]] = {PLAIN: [], OURS: []}
        try:
            for number in range(-1, rounds):  # the first is a warm-up
                progress(f"round {number + 1} of {rounds}" if number >= 0 else "warming up")
                for name, end in ends.items():
                    end.send(True)
                    seconds[name].append(end.recv())
            peaks = {name: _last_word(end) for name, end in ends.items()}
        except (EOFError, OSError) as error:
            raise TrainingError(f"the step {name} ended before its time; lower --batch or --ch") from error
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        StepTiming(
            name, batch, medians[name], batch / medians[name], peaks[name], medians[PLAIN] / medians[name],
            tuple(seconds[name][1:]),
        )
        for name in ends
    ]  # fmt: skip


def training_table(rows: list[StepTiming]) -> list[str]:
    lines = [f"{'a training step':26} {'batch':>5} {'s/step':>8} {'images/s':>9} {'peak MiB':>9} {'speed':>7}"]
    return lines + [
        f"{r.candidate:26} {r.batch:5} {r.seconds:8.3f} {r.images_per_s:9.3f} {r.peak_mib:9.0f} {r.speedup:6.2f}x"
        for r in rows
    ]


def _scenes(folder: Path, variant: str, count: int) -> Path:
    from lostgan_train.generator import GeneratorConfig
    from lostgan_train.scenes.dataset import write_dataset

    # some are passed over for the number of their objects
    write_dataset(folder, count + 4, GeneratorConfig(variant, num_labels=1).resolution, workers=1)
    return folder


def _last_word(end: Connection) -> float:
    end.send(False)
    peak: float = end.recv()
    return peak


def _steps(end: Connection, plain: bool, data: Path, variant: str, ch: int, batch: int, precision: str) -> None:
    """In a process of its own: a step and its seconds for each True that comes, and at last the peak in MiB."""
    import torch

    from lostgan_export.baseline import write_as_the_paper
    from lostgan_train.data import open_data
    from lostgan_train.trainer import TrainConfig, Trainer

    config = TrainConfig(variant, 1, ch, ch, batch=batch, precision=precision)  # type: ignore[arg-type]
    trainer = Trainer(config, open_data(data), data, workers=0, echo=lambda _: None)
    if plain:
        write_as_the_paper(trainer.generator)
    examples = next(trainer.batches())
    while end.recv():
        start = time.perf_counter()
        trainer.step(examples)
        end.send(time.perf_counter() - start)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    end.send(peak / 2**20)
