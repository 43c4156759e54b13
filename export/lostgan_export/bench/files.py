"""Pictures on disk: their pace beside that of inference alone.

Both take turns within each round, and a figure is the median over the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lostgan_export.bench.formulations import layouts_for
from lostgan_export.bench.report import table
from lostgan_export.parity import sample_layouts
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.errors import LostganError
from lostgan_serve.files import scratch_folder
from lostgan_serve.layout import Layout
from lostgan_serve.progress import Progress
from lostgan_serve.runners import AUTO, Runner, open_runner
from lostgan_serve.samples import SampleSet

_KINDS = {
    # pictures to write: the outputs that they are made of
    "image": ("image",),
    "image,object_map,overlay": OUTPUT_NAMES,
}


@dataclass(frozen=True)
class Written:
    """Figures of one choice of pictures.

    pictures: the kinds that are written. inference: images/s of the model alone, in full batches and with the outputs
    that the pictures need. images_per_s: with rendering, encoding and writing beside it. share: median over the rounds
    of their ratio. command: images/s of `lostgan-serve generate`, its start included. rounds: the ratio in each round.
    """

    pictures: str
    layouts: int
    inference: float
    images_per_s: float
    share: float
    command: float
    rounds: tuple[float, ...]


def bench_files(model: Path, count: int, rounds: int, progress: Progress) -> list[Written]:
    """Time pictures of `count` layouts, the images alone and all three kinds.

    model: a model's folder in the repository. Raises LostganError where the command fails, and ModelError.
    """
    runner = open_runner(AUTO, model, progress)
    try:
        drawn = sample_layouts(runner.manifest)
        layouts = [replace(drawn[k % len(drawn)], seed=k, name=f"layout-{k}") for k in range(count)]
        return [_bench(model, runner, pictures, layouts, rounds, progress) for pictures in _KINDS]
    finally:
        runner.close()


def _bench(
    model: Path, runner: Runner, pictures: str, layouts: Sequence[Layout], rounds: int, progress: Progress
) -> Written:
    inference, written, command = [], [], []
    for number in range(rounds):
        progress.note(f"{pictures}: round {number + 1} of {rounds}")
        inference.append(inference_pace(runner, _KINDS[pictures], len(layouts)))
        with scratch_folder() as folder:
            files = SampleSet(folder, tuple(pictures.split(","))).fill(layouts, runner)
            written.append(pace(len(layouts), partial(deque, files, maxlen=0)))
        with scratch_folder() as folder:
            command.append(_command_pace(model, pictures, layouts, folder))
    shares = tuple(with_files / alone for with_files, alone in zip(written, inference, strict=True))
    alone, with_files, whole = (statistics.median(paces) for paces in (inference, written, command))
    return Written(pictures, len(layouts), alone, with_files, statistics.median(shares), whole, shares)


def pace(count: int, work: Callable[[], object]) -> float:
    """Images per second of `work`, which makes `count` of them."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def _command_pace(model: Path, pictures: str, layouts: Sequence[Layout], folder: Path) -> float:
    """Images per second of `lostgan-serve generate`, from its start to its end. Raises LostganError where it fails or
    takes a minute a layout."""
    file = folder / "layouts.json"
    file.write_text(json.dumps([layout.to_json() for layout in layouts]), "utf-8")
    command = [Path(sys.executable).with_name("lostgan-serve"), "generate", file, "--model", model]
    command += ["--only", pictures, "--out", folder / "out"]

    def run() -> None:
        try:
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60 * (1 + len(layouts)))
        except subprocess.TimeoutExpired as error:
            raise LostganError(f"lostgan-serve generate did not end within {error.timeout / 60:.0f} minutes") from error
        if done.returncode:
            raise LostganError(f"lostgan-serve generate failed: {done.stderr.strip()}")

    return pace(len(layouts), run)


def inference_pace(runner: Runner, outputs: Sequence[str], count: int) -> float:
    """Images per second of a runner that is given full batches, one after another."""
    size = runner.manifest.max_batch
    batch, batches = layouts_for(runner.manifest, size), -(-count // size)
    runner.run(batch, outputs)  # warm

    def run() -> None:
        for _ in range(batches):
            runner.run(batch, outputs)

    return pace(batches * size, run)


def written_table(rows: Sequence[Written]) -> list[str]:
    """Lines of a table in Markdown."""
    return table(
        ("pictures written", "layouts", "inference, images/s", "with files", "share", "whole command"),
        [
            (
                row.pictures,
                str(row.layouts),
                f"{row.inference:.1f}",
                f"{row.images_per_s:.1f}",
                f"{row.share:.0%}",
                f"{row.command:.1f}",
            )
            for row in rows
        ],
    )
