"""`evaluate`: metrics of a subject, written to evaluation.json with everything that they depend on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from lostgan_evaluate.contents import content_of
from lostgan_evaluate.features.registry import default_extractors, open_extractor
from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.grids import shown
from lostgan_evaluate.metrics import registry
from lostgan_evaluate.scores import Measured
from lostgan_evaluate.subject import Subject, Tools
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve import __version__
from lostgan_serve.errors import EvaluationError
from lostgan_serve.files import parse_json, write_file
from lostgan_serve.progress import SILENT, Progress
from lostgan_train.data import Example, Source

FORMAT = "lostgan-serve evaluation 1"
EVALUATION_FILE = "evaluation.json"

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "torch-fidelity", "lpips", "pycocotools")


def open_tools(
    out: Path,
    weights: Path | None = None,
    extractors: Sequence[str] = (),
    *,
    shared: Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Tools:
    """Open the networks that features come from. out: folder of the results.

    weights: folder of weight files, see `lostgan-serve weights`. extractors: names, by default all that are at hand.
    shared: folder of features and of the networks that metrics train, which several results may share; by default
    `out`. Raises EvaluationError, InputError and CheckpointError for weights that cannot be used, MissingExtraError.
    """
    files, shared = WeightFiles(weights), shared or out
    names = tuple(extractors) or default_extractors(files)
    store = FeatureStore(shared / "features", lambda name: open_extractor(name, files), progress)
    for name in names:
        store.extractor(name)
    return Tools(out, shared / "networks", store, files, names, progress, seed)


def evaluate(subject: Subject, tools: Tools, metrics: Iterable[str] | None = None) -> Path:
    """Measure metrics and write `tools.out`/evaluation.json after each. Returns that file.

    Scores of other metrics that the file has already stay in it, if they are of the same images, data, protocol and
    versions. metrics: names of `registry.NAMES`; None for all that can be measured, and those that cannot are listed
    with the reason. Raises EvaluationError for a named one that cannot be measured, before any is, and what a metric
    raises.
    """
    chosen = [registry.metric(name) for name in (registry.NAMES if metrics is None else metrics)]
    left_out = {one.name: reason for one in chosen if (reason := one.why_not(subject, tools))}
    if metrics is not None and left_out:
        name, reason = next(iter(left_out.items()))
        raise EvaluationError(f"--metrics {name}: {reason}")
    path = tools.out / EVALUATION_FILE
    facts = _facts(subject, tools)
    if copies := facts["subject"]["duplicates"]:
        tools.progress.note(f"note: {copies} of {len(subject.samples)} generated images are the same as another")
    result = _begun(path, facts)
    for one in chosen:
        measured, reason = Measured(()), left_out.get(one.name)
        if not reason:
            tools.progress.note(f"measuring {one.name}: {one.title}")
            try:
                measured = one.measure(subject, tools)
            except EvaluationError as error:
                if metrics is not None:
                    raise EvaluationError(f"--metrics {one.name}: {error}") from error
                reason = str(error)
        _replace(result, one.name, measured, reason)
        write_file(path, json.dumps(result, indent=1).encode())
    return path


def _begun(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The result in a file; an empty one where its facts are others."""
    try:
        earlier: dict[str, Any] = parse_json(path.read_bytes())
        same = all(earlier[name] == fact for name, fact in facts.items())
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    return earlier if same else {**facts, "scores": {}, "left_out": {}, "sheets": []}


def _replace(result: dict[str, Any], metric: str, measured: Measured, reason: str | None) -> None:
    """Put a metric's scores in the place of earlier ones, or the reason why there are none."""
    result["scores"] = {name: score for name, score in result["scores"].items() if score["metric"] != metric}
    result["left_out"] = {name: why for name, why in result["left_out"].items() if name != metric}
    if reason:
        result["left_out"][metric] = reason
    for score in measured.scores:
        values = asdict(score)
        result["scores"][values.pop("name")] = values | {"metric": metric}
    result["sheets"] += [sheet for sheet in measured.sheets if sheet not in result["sheets"]]


def _facts(subject: Subject, tools: Tools) -> dict[str, Any]:
    """All that scores depend on, as JSON has it."""
    facts: dict[str, Any] = parse_json(
        json.dumps(
            {
                "format": FORMAT,
                "subject": _subject_facts(subject),
                "data": data_facts(subject.real, subject.source),
                "protocol": subject.protocol.facts(),
                "seed": tools.seed,
                "extractors": tools.extractors,
                "versions": {"lostgan-serve": __version__} | {name: metadata.version(name) for name in _PACKAGES},
            }
        )
    )
    return facts


def _subject_facts(subject: Subject) -> dict[str, Any]:
    runner = subject.runner
    return {
        "name": subject.name,
        "model": None if runner is None else runner.manifest.identity(),
        "runner": None if runner is None else type(runner).__name__,
        "images": len(subject.samples),
        "duplicates": len(subject.samples) - len({content_of(sample.file) for sample in subject.samples}),
        "layouts": len(subject.real) if subject.source is not None else None,
    }


def data_facts(real: Sequence[Example], source: Source | None) -> dict[str, Any]:
    """The facts that tell real images from others. source: the data that they are of, None for a folder of images."""
    return {
        "name": real[0].image.parent.name if source is None else Path(source.summary.folder).name,
        "format": None if source is None else source.summary.format,
        "vocabulary": None if source is None else source.vocabulary.name,
        "images": len(real),
        "objects": sum(len(example.labels) for example in real),
    }


def lines(path: Path) -> list[str]:
    """The scores of an evaluation.json as lines of a table for people."""
    result = parse_json(path.read_bytes())
    rows = [("score", "value", "spread", "real images")]
    for name, score in result["scores"].items():
        rows.append((name, *(_shown(score[part]) for part in ("value", "spread", "real"))))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, *(f"left out: {name}: {reason}" for name, reason in result["left_out"].items())]


def _shown(value: float | None) -> str:
    return "" if value is None else shown(value)
