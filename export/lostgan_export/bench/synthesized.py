"""Data sets: the pace of making them beside that of inference alone, here and on Ray, and the memory that it takes.

All take turns within each round, and a figure is the median over the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lostgan_export.bench.files import inference_pace, pace
from lostgan_export.bench.report import table
from lostgan_export.parity import sample_layouts
from lostgan_serve.errors import LostganError
from lostgan_serve.files import scratch_folder
from lostgan_serve.layout import Layout
from lostgan_serve.processes import family, sizes_kib
from lostgan_serve.progress import Progress
from lostgan_serve.runners import AUTO, Runner, open_runner
from lostgan_serve.synthesize.labelling import OUTPUTS
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.recipe import Recipe

ENGINES = ("local", "ray")

_POLL_S = 0.2
_LIMIT_S = 10.0  # for each image, on top of a minute


@dataclass(frozen=True)
class Made:
    """Figures of one way to make a data set of `images` images.

    images_per_s: of the whole command, its start and end included, or of the function. share: median over the rounds of
    its ratio to inference alone, in the same round. peak_mib: most memory that its processes held together, each page
    counted once; None for the function. rounds: the ratio in each round.
    """

    way: str
    images: int
    images_per_s: float
    share: float
    peak_mib: float | None
    rounds: tuple[float, ...]


def bench_synthesize(
    model: Path, counts: Sequence[int], engines: Sequence[str], rounds: int, progress: Progress
) -> tuple[float, list[Made]]:
    """Time data sets of each size: the function in this process, then the command with each engine of ENGINES.

    model: a model's folder in the repository. Returns images/s of inference alone, in full batches, and the figures.
    Raises LostganError where a command fails, and ModelError.
    """
    whole = open_runner(AUTO, model, progress)
    single = open_runner(AUTO, model, threads=1)
    drawn = sample_layouts(whole.manifest)
    ways = [(way, count) for count in counts for way in ("function", *engines)]
    paces: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    shares: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    peaks: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    alone: list[float] = []
    try:
        for number in range(rounds):
            for way, count in ways:
                progress.note(f"round {number + 1} of {rounds}: {way}, {count} images")
                alone.append(inference_pace(whole, OUTPUTS, min(count, 500)))
                layouts = [replace(drawn[k % len(drawn)], name=f"layout-{k}") for k in range(count)]
                with scratch_folder() as folder:
                    if way == "function":
                        found = _function_pace(layouts, single, folder)
                    else:
                        found, peak = _command_pace(model, layouts, way, folder)
                        peaks[way, count].append(peak)
                paces[way, count].append(found)
                shares[way, count].append(found / alone[-1])
    finally:
        whole.close()
        single.close()
    rows = [
        Made(
            way,
            count,
            statistics.median(paces[way, count]),
            statistics.median(shares[way, count]),
            statistics.median(peaks[way, count]) if peaks[way, count] else None,
            tuple(shares[way, count]),
        )
        for way, count in ways
    ]
    return statistics.median(alone), rows


def _function_pace(layouts: Sequence[Layout], runner: Runner, folder: Path) -> float:
    plan = Plan(layouts, Recipe(), runner.manifest.capacity)
    return pace(len(layouts), lambda: synthesize(plan, str(folder / "set"), runner))


def _command_pace(model: Path, layouts: Sequence[Layout], engine: str, folder: Path) -> tuple[float, float]:
    """Images per second of `lostgan-serve synthesize`, and the most memory of its processes in MiB."""
    file = folder / "layouts.json"
    file.write_text(json.dumps([layout.to_json() for layout in layouts]), "utf-8")
    command = [Path(sys.executable).with_name("lostgan-serve"), "synthesize", file, "--model", model]
    command += ["--engine", engine, "--out", folder / "set"]
    start, peak = time.monotonic(), 0.0
    with (folder / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        try:
            while process.poll() is None:
                if time.monotonic() - start > 60 + _LIMIT_S * len(layouts):
                    raise LostganError(f"lostgan-serve synthesize made no end of {len(layouts)} images")
                peak = max(peak, _family_mib(process.pid))
                time.sleep(_POLL_S)
        finally:
            process.kill()
        if process.returncode:
            log.seek(0)
            raise LostganError(f"lostgan-serve synthesize failed: {log.read().strip()}")
    return len(layouts) / (time.monotonic() - start), peak


def _family_mib(pid: int) -> float:
    """Memory of a process and its descendants in MiB; shared pages count for each by its share."""
    return sum(sizes_kib(each).get("Pss", 0) for each in family(pid)) / 1024


def made_table(alone: float, rows: Sequence[Made]) -> list[str]:
    """Lines of a table in Markdown."""
    return [
        f"inference alone: {alone:.1f} images/s",
        *table(
            ("made by", "images", "images/s", "of inference alone", "peak MiB"),
            [
                (
                    row.way if row.way == "function" else f"command, {row.way}",
                    str(row.images),
                    f"{row.images_per_s:.1f}",
                    f"{row.share:.0%}",
                    "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
                )
                for row in rows
            ],
        ),
    ]
