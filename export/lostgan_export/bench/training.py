"""The training step against the same one in the reference formulation: pace and peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lostgan_export.bench.report import table
from lostgan_export.bench.turns import turns
from lostgan_serve.files import scratch_folder
from lostgan_serve.manifest import Precision
from lostgan_serve.progress import Progress

REFERENCE, OURS = "reference", "lostgan-serve"


@dataclass(frozen=True)
class StepTiming:
    """seconds: of a step, median over the rounds. peak_mib: most memory that its process held. speedup: over the
    reference formulation."""

    candidate: str
    batch: int
    seconds: float
    images_per_s: float
    peak_mib: float
    speedup: float
    rounds: tuple[float, ...]


def bench_training(
    variant: str, ch: int, batch: int, precision: Precision, rounds: int, progress: Progress
) -> list[StepTiming]:
    """Time a step of both networks, on drawn scenes. Raises LostganError where a process ends before its time."""
    with scratch_folder() as folder:
        with progress.stage("draw scenes"):
            data = _scenes(folder / "scenes", variant, batch)
        config = (variant, ch, batch, precision)
        with turns({name: (_build, (name == REFERENCE, data, *config)) for name in (REFERENCE, OURS)}) as candidates:
            seconds = candidates.measure(None, "a training step", rounds, progress)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        StepTiming(
            candidate=name,
            batch=batch,
            seconds=median,
            images_per_s=batch / median,
            peak_mib=candidates.peak_mib[name],
            speedup=medians[REFERENCE] / median,
            rounds=seconds[name],
        )
        for name, median in medians.items()
    ]


def training_table(rows: list[StepTiming]) -> list[str]:
    return table(
        ("a training step", "batch", "s/step", "images/s", "peak MiB", "speed"),
        [
            (
                r.candidate,
                f"{r.batch}",
                f"{r.seconds:.3f}",
                f"{r.images_per_s:.3f}",
                f"{r.peak_mib:,.0f}",
                f"{r.speedup:.2f}x",
            )
            for r in rows
        ],
    )


def _scenes(folder: Path, variant: str, count: int) -> Path:
    from lostgan_train.networks.generator import GeneratorConfig
    from lostgan_train.synthetic.dataset import write_dataset

    # some are passed over for the number of their objects
    write_dataset(folder, count + 4, GeneratorConfig(variant, num_labels=1).resolution, workers=1)
    return folder


def _build(
    reference: bool, data: Path, variant: str, ch: int, batch: int, precision: Precision
) -> Callable[[Any], object]:
    """Make a step on one batch, to be called over and over."""
    from lostgan_train.data import open_data
    from lostgan_train.networks.formulation import OURS
    from lostgan_train.networks.reference import REFERENCE as REFERENCE_FORMULATION
    from lostgan_train.settings import TrainSettings
    from lostgan_train.training import TrainingRun

    settings = TrainSettings(
        variant=variant, data=data, perceptual="none", steps=1, ch=ch, batch=batch, precision=precision, workers=0
    )
    run = TrainingRun(
        settings,
        open_data(data),
        data,
        formulation=REFERENCE_FORMULATION if reference else OURS,
    )
    examples = next(run.batches(0))
    return lambda _: run.loop.step(examples)
