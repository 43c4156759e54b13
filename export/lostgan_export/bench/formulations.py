"""Benchmark of formulations and runtimes: the reference in PyTorch and ONNX Runtime, ours in every runtime at hand.

A figure is the median over rounds in which the candidates take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from lostgan_export.bench.report import table
from lostgan_export.bench.turns import Build, turns
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, Tensors
from lostgan_serve.encoding import encode
from lostgan_serve.files import scratch_folder
from lostgan_serve.manifest import Manifest
from lostgan_serve.progress import Progress
from lostgan_serve.runners.cores import usable_cores

REFERENCE_TORCH = "reference, PyTorch"
REFERENCE_ONNX = "reference, ONNX Runtime"
COMPILED = "the training module, torch.compile"
OURS = "lostgan-serve, ONNX Runtime"
OPENVINO = "lostgan-serve, OpenVINO"
OPENVINO_BF16 = "lostgan-serve, OpenVINO, bf16"

RUNNERS = {
    "onnxrt": (OURS,),
    "openvino": (OURS, OPENVINO, OPENVINO_BF16),
    "compile": (COMPILED,),
    "all": (COMPILED, OURS, OPENVINO, OPENVINO_BF16),
}
"""Candidates that `bench --runner` measures beside the reference, the formulation of the paper. compile: the unfused
training module, which takes minutes to compile."""


@dataclass(frozen=True)
class Timing:
    """Figures of a candidate at a batch size.

    seconds_per_image: median over the rounds. over_torch, over_onnx: images/s as multiples of the reference in PyTorch
    and in ONNX Runtime at the same batch. peak_mib: most memory that the candidate's process held up to then.
    share_of_peak: of the machine's matrix products of the same type, in multiply-adds per second; None where they were
    not counted.
    """

    candidate: str
    batch: int
    seconds_per_image: float
    over_torch: float
    over_onnx: float
    peak_mib: float
    share_of_peak: float | None
    rounds: tuple[float, ...]


def bench_formulations(
    source: Any,
    manifest: Manifest,
    batches: Sequence[int],
    rounds: int,
    candidates: Sequence[str],
    progress: Progress,
) -> list[Timing]:
    """Time the reference and `candidates`, each in a process of its own.

    source: a `lostgan_train.networks.checkpoint.Checkpoint`. Raises MissingExtraError before anything is measured, and
    LostganError where a candidate cannot run here.
    """
    from lostgan_serve.runners.openvino import computes_bf16, openvino

    if not {OPENVINO, OPENVINO_BF16}.isdisjoint(candidates):
        openvino()
    if OPENVINO_BF16 in candidates and not computes_bf16():
        progress.note("this CPU has no bf16: left out")
        candidates = [name for name in candidates if name != OPENVINO_BF16]
    with scratch_folder() as folder:
        with progress.stage("export both formulations"):
            files = _export(source, manifest, folder, bf16=OPENVINO_BF16 in candidates)
        builds, pace = _builds(files), _Pace.measure(files, candidates)
        timings = []
        with turns({name: builds[name] for name in (REFERENCE_TORCH, REFERENCE_ONNX, *candidates)}) as processes:
            for batch in batches:
                seconds = processes.measure(layouts_for(manifest, batch), f"batch {batch}", rounds, progress)
                timings += _timings(seconds, batch, processes.peak_mib, pace)
    return timings


@dataclass(frozen=True)
class _Files:
    """Both formulations on disk. ours_bf16: need not be there."""

    weights: Path
    reference: Path
    ours: Path
    ours_bf16: Path


@dataclass(frozen=True)
class _Pace:
    """Arithmetic, in multiply-adds. work: of an image, by candidate. peaks: a second's, by precision."""

    work: dict[str, int]
    peaks: dict[str, float]

    @classmethod
    def measure(cls, files: _Files, candidates: Sequence[str]) -> _Pace:
        """Count the work of both formulations, and measure the machine's peak in the types that they compute in."""
        from lostgan_export.bench.arithmetic import matmul_peak, multiply_adds

        # none for the unfused training module, which does more than either file counts
        counted = [name for name in candidates if name != COMPILED]
        work = {REFERENCE_ONNX: multiply_adds(files.reference)} | dict.fromkeys(counted, multiply_adds(files.ours))
        precisions = ("fp32", "bf16") if OPENVINO_BF16 in candidates else ("fp32",)
        return cls(work, {precision: matmul_peak(precision) for precision in precisions})

    def share_of_peak(self, name: str, seconds: float) -> float | None:
        """Divide a candidate's pace by the peak; None where its work was not counted."""
        if name not in self.work:
            return None
        return self.work[name] / seconds / self.peaks["bf16" if name == OPENVINO_BF16 else "fp32"]


def _builds(files: _Files) -> dict[str, tuple[Build, Sequence[Any]]]:
    """The function that makes each candidate, with its arguments."""
    return {
        REFERENCE_TORCH: (_torch, (files.weights, False)),
        REFERENCE_ONNX: (_session, (files.reference, ("image", "masks"))),
        COMPILED: (_torch, (files.weights, True)),
        OURS: (_runner, ("onnxrt", files.ours)),
        OPENVINO: (_runner, ("openvino", files.ours)),
        OPENVINO_BF16: (_runner, ("openvino", files.ours_bf16)),
    }


def _timings(
    seconds: dict[str, tuple[float, ...]], batch: int, peak_mib: dict[str, float], pace: _Pace
) -> list[Timing]:
    """Reduce the seconds that every candidate took for a batch, round by round, to its figures."""
    medians = {name: statistics.median(values) / batch for name, values in seconds.items()}
    return [
        Timing(
            candidate=name,
            batch=batch,
            seconds_per_image=median,
            over_torch=medians[REFERENCE_TORCH] / median,
            over_onnx=medians[REFERENCE_ONNX] / median,
            peak_mib=peak_mib[name],
            share_of_peak=pace.share_of_peak(name, median),
            rounds=tuple(value / batch for value in seconds[name]),
        )
        for name, median in medians.items()
    ]


def timings_table(timings: Sequence[Timing]) -> list[str]:
    return table(
        ("", "batch", "ms/image", "images/s", "against PyTorch", "against ONNX", "peak MiB", "of matmul peak"),
        [
            (
                t.candidate,
                f"{t.batch}",
                f"{1000 * t.seconds_per_image:.1f}",
                f"{1 / t.seconds_per_image:.2f}",
                f"{t.over_torch:.2f}x",
                f"{t.over_onnx:.2f}x",
                f"{t.peak_mib:,.0f}",
                "" if t.share_of_peak is None else f"{t.share_of_peak:.0%}",
            )
            for t in timings
        ],
    )


def timings_plot(timings: Sequence[Timing], title: str) -> bytes:
    """Draw a PNG: images/s of every candidate, a group of bars for each batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(t.candidate for t in timings))
    batches = list(dict.fromkeys(t.batch for t in timings))
    figure, axis = pyplot.subplots(figsize=(8, 0.6 + 0.45 * len(names) * len(batches)), layout="constrained")
    for k, batch in enumerate(batches):
        pace = {t.candidate: 1 / t.seconds_per_image for t in timings if t.batch == batch}
        places = [k * (len(names) + 1) + names.index(name) for name in pace]
        bars = axis.barh(places, list(pace.values()), color=[f"C{names.index(name)}" for name in pace])
        axis.bar_label(bars, [f"{name}, batch {batch}: {value:.2f}" for name, value in pace.items()], padding=4)
    axis.set(title=title, xlabel="images/s", yticks=[])
    axis.set_xlim(right=1.9 / min(t.seconds_per_image for t in timings))  # room for the labels
    axis.invert_yaxis()
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def _export(source: Any, manifest: Manifest, folder: Path, *, bf16: bool) -> _Files:
    """Write the weights, and export the reference, with spectral norms folded as a runtime would; ours; and ours in
    bf16, where it is wanted."""
    from lostgan_export.folding import fold_spectral_norms
    from lostgan_export.fused import fuse
    from lostgan_export.onnx_export import export_onnx
    from lostgan_train.networks.checkpoint import save_checkpoint
    from lostgan_train.networks.reference import as_reference

    names = ("weights.safetensors", "reference.onnx", "ours.onnx", "ours-bf16.onnx")
    files = _Files(*(folder / name for name in names))
    save_checkpoint(files.weights, source)
    folded = as_reference(source.generator)
    fold_spectral_norms(folded)
    export_onnx(folded, manifest, files.reference, ("image", "mask_initial", "masks"))
    export_onnx(fuse(source.generator), manifest, files.ours)
    if bf16:
        export_onnx(fuse(source.generator, "bf16"), manifest, files.ours_bf16)
    return files


def layouts_for(manifest: Manifest, batch: int) -> Tensors:
    """Make contract inputs of `batch` layouts: those that export compares, over and over."""
    from lostgan_export.parity import sample_layouts

    layouts = sample_layouts(manifest)
    return encode([layouts[k % len(layouts)] for k in range(batch)], manifest)


def _torch(weights: Path, compiled: bool) -> Callable[[Tensors], object]:
    """Build the reference, or the training module under torch.compile."""
    import torch

    from lostgan_train.networks.checkpoint import load_checkpoint
    from lostgan_train.networks.reference import as_reference

    torch.set_num_threads(usable_cores())
    generator = load_checkpoint(weights).generator
    network: Any = torch.compile(generator) if compiled else as_reference(generator)

    def run(tensors: Tensors) -> None:
        with torch.inference_mode():
            network(*(torch.from_numpy(tensors[name]) for name in INPUT_NAMES))

    return run


def _session(model: Path, outputs: Sequence[str]) -> Callable[[Tensors], object]:
    """Open a session with our settings that is given whole batches."""
    from lostgan_serve.runners.onnxrt import open_session

    session = open_session(model, usable_cores(), ["CPUExecutionProvider"])
    return lambda tensors: session.run(list(outputs), {name: tensors[name] for name in INPUT_NAMES})


def _runner(name: str, model: Path) -> Callable[[Tensors], object]:
    from lostgan_serve.runners import open_runner

    runner = open_runner(name, model)
    return lambda tensors: runner.run(tensors, OUTPUT_NAMES)
