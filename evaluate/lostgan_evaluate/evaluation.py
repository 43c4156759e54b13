"""`evaluate`: metrics of a subject, written to evaluation.json with everything that they depend on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from lostgan_evaluate.features.registry import default_extractors, open_extractor
from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.metrics import registry
from lostgan_evaluate.scores import Measured
from lostgan_evaluate.subject import Subject, Tools
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve import __version__
from lostgan_serve.errors import EvaluationError
from lostgan_serve.files import write_file
from lostgan_serve.progress import SILENT, Progress

FORMAT = "lostgan-serve evaluation 1"
EVALUATION_FILE = "evaluation.json"

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "torch-fidelity", "lpips", "pycocotools")


def open_tools(
    out: Path,
    weights: Path | None = None,
    extractors: Sequence[str] = (),
    *,
    networks: Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Tools:
    """Open the networks that features come from. out: folder of the results; features are kept in `out`/features.

    weights: folder of weight files, see `lostgan-serve weights`. extractors: names, by default all that are at hand.
    networks: folder of the networks that metrics train, by default `out`/networks.
    Raises EvaluationError, InputError and CheckpointError for weights that cannot be used, MissingExtraError.
    """
    files = WeightFiles(weights)
    names = tuple(extractors) or default_extractors(files)
    store = FeatureStore(out / "features", lambda name: open_extractor(name, files), progress)
    for name in names:
        store.extractor(name)
    return Tools(out, networks or out / "networks", store, files, names, progress, seed)


def evaluate(subject: Subject, tools: Tools, metrics: Iterable[str] | None = None) -> Path:
    """Measure metrics and write `tools.out`/evaluation.json after each. Returns that file.

    metrics: names of `registry.NAMES`; None for all that can be measured, and those that cannot are listed with the
    reason. Raises EvaluationError for a named one that cannot be measured, before any is, and whatever a metric raises.
    """
    chosen = [registry.metric(name) for name in (registry.NAMES if metrics is None else metrics)]
    left_out = {one.name: reason for one in chosen if (reason := one.why_not(subject, tools))}
    if metrics is not None and left_out:
        name, reason = next(iter(left_out.items()))
        raise EvaluationError(f"--metrics {name}: {reason}")
    measured: dict[str, Measured] = {}
    path = tools.out / EVALUATION_FILE
    for one in chosen:
        if one.name in left_out:
            continue
        tools.progress.note(f"measuring {one.name}: {one.title}")
        try:
            measured[one.name] = one.measure(subject, tools)
        except EvaluationError as error:
            if metrics is not None:
                raise EvaluationError(f"--metrics {one.name}: {error}") from error
            left_out[one.name] = str(error)
        write_file(path, json.dumps(_result(subject, tools, measured, left_out), indent=1).encode())
    write_file(path, json.dumps(_result(subject, tools, measured, left_out), indent=1).encode())
    return path


def _result(
    subject: Subject, tools: Tools, measured: Mapping[str, Measured], left_out: Mapping[str, str]
) -> dict[str, Any]:
    scores = {
        score.name: asdict(score) | {"metric": name} for name, found in measured.items() for score in found.scores
    }
    for score in scores.values():
        del score["name"]
    return {
        "format": FORMAT,
        "subject": _subject_facts(subject),
        "data": _data_facts(subject),
        "protocol": subject.protocol.facts(),
        "seed": tools.seed,
        "extractors": list(tools.extractors),
        "versions": {"lostgan-serve": __version__} | {name: metadata.version(name) for name in _PACKAGES},
        "scores": scores,
        "left_out": dict(left_out),
        "sheets": [sheet for found in measured.values() for sheet in found.sheets],
    }


def _subject_facts(subject: Subject) -> dict[str, Any]:
    runner = subject.runner
    return {
        "name": subject.name,
        "model": None if runner is None else runner.manifest.identity(),
        "runner": None if runner is None else type(runner).__name__,
        "images": len(subject.samples),
        "layouts": len(subject.real) if subject.source is not None else None,
    }


def _data_facts(subject: Subject) -> dict[str, Any]:
    source = subject.source
    return {
        "name": subject.real[0].image.parent.name if source is None else Path(source.summary.folder).name,
        "format": None if source is None else source.summary.format,
        "vocabulary": None if source is None else source.vocabulary.name,
        "images": len(subject.real),
        "objects": sum(len(example.labels) for example in subject.real),
    }


def lines(path: Path) -> list[str]:
    """The scores of an evaluation.json as lines of a table for people."""
    result = json.loads(path.read_bytes())
    rows = [("score", "value", "spread", "real images")]
    for name, score in result["scores"].items():
        rows.append((name, *(_shown(score[part]) for part in ("value", "spread", "real"))))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, *(f"left out: {name}: {reason}" for name, reason in result["left_out"].items())]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
