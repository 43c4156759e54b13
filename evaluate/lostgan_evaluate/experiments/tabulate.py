"""The table of an experiment: means and spreads over seeds beside the paper's numbers, and a verdict on each claim."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lostgan_evaluate.experiments.known import Known
from lostgan_evaluate.experiments.tables import CLAIMED, Claim, Experiment, Row
from lostgan_evaluate.experiments.verdicts import CONFIDENCE, Values, advantages, judge
from lostgan_evaluate.grids import DASH, Grid, shown
from lostgan_evaluate.published import BETTER, COCO, Figure, published_figure, published_grid, stands_for
from lostgan_serve.files import write_file

TABLE_FORMAT = "lostgan-serve table 1"
TABLE_FILE, MARKDOWN_FILE = "table.json", "table.md"


@dataclass
class Outcome:
    """The results so far. evaluations: evaluation.json by measurement, see `Row.measurement`, and seed. missing:
    reasons for those that there will not be. known: values that stand beside them."""

    experiment: Experiment
    seeds: int
    evaluations: dict[tuple[str, int], Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    known: Known | None = None


def write_table(out: Path, outcome: Outcome, budget: Mapping[str, Any]) -> Path:
    """Write table.json and table.md into a folder. Returns the first. budget: what all rows share. Raises
    OutputError."""
    table = tabulate(outcome, budget)
    write_file(out / MARKDOWN_FILE, markdown(outcome.experiment, table).encode())
    write_file(out / TABLE_FILE, json.dumps(table, indent=1).encode())
    return out / TABLE_FILE


def tabulate(outcome: Outcome, budget: Mapping[str, Any]) -> dict[str, Any]:
    """The content of table.json: rows with a score's values by seed, and claims with their verdicts."""
    experiment, known = outcome.experiment, outcome.known
    found: dict[tuple[str, int], dict[str, Any]] = {
        key: json.loads(path.read_bytes()) for key, path in outcome.evaluations.items()
    }
    evaluated = next((evaluation["data"] for evaluation in found.values()), known and known.table.evaluated)
    scores = {
        row.key: [
            (known.scores(row, seed) if known else {}) | _scores(row, found.get((row.measurement, seed)))
            for seed in range(outcome.seeds)
        ]
        for row in experiment.rows
    }
    return {
        "format": TABLE_FORMAT,
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        "seeds": outcome.seeds,
        "variant": experiment.variant,
        "budget": dict(budget),
        "evaluated": evaluated,
        "rows": [_row(experiment, row, scores[row.key]) for row in experiment.rows],
        "claims": [entry for claim in experiment.claims for entry in _claim(experiment, claim, scores)],
        "missing": outcome.missing,
    }


def _scores(row: Row, evaluation: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The scores of a row with one seed: those of real images where the row is of them."""
    scores = (evaluation or {"scores": {}})["scores"]
    if not row.real:
        return dict(scores)
    return {
        name: {**score, "value": score["real"], "by_label": {}}
        for name, score in scores.items()
        if score["real"] is not None
    }


def _row(experiment: Experiment, row: Row, by_seed: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for scores in by_seed for name in scores))
    figures = {score: asdict(figure) for score in BETTER if (figure := _figure_of(experiment, row, score)) is not None}
    return {
        "row": row.key,
        "method": row.title,
        "network": DASH if row.real else row.model.name,
        "scores": {name: summary([scores.get(name) for scores in by_seed]) for name in names},
        "published": figures,
    }


def _figure_of(experiment: Experiment, row: Row, score: str) -> Figure | None:
    if experiment.table is None:
        return None
    return published_figure(experiment.table, row.method, row.resolution_px, score)


def summary(by_seed: list[dict[str, Any] | None]) -> dict[str, Any]:
    """A score over seeds: spread is the standard deviation between seeds, None with one of them."""
    scores = [score for score in by_seed if score is not None]
    values = [score["value"] for score in scores]
    labels = dict.fromkeys(label for score in scores for label in score["by_label"])
    return {
        "values": [None if score is None else score["value"] for score in by_seed],
        "mean": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "better": scores[0]["better"],
        "by_label": {
            label: statistics.fmean(score["by_label"][label] for score in scores if label in score["by_label"])
            for label in labels
        },
    }


def _claim(
    experiment: Experiment, claim: Claim, scores: Mapping[str, list[dict[str, dict[str, Any]]]]
) -> list[dict[str, Any]]:
    """A claim judged by each score at hand that it is about, or that stands for one of the paper's."""
    names = list(dict.fromkeys(name for rows in scores.values() for of_seed in rows for name in of_seed))
    entries = []
    for score in claim.scores:
        for name in [name for name in names if score in (name, stands_for(name))] or [score]:
            values: Values = {
                row: [of_seed[name]["value"] if name in of_seed else None for of_seed in scores.get(row, ())]
                for row in claim.weights
            }
            judgement = judge(claim.weights, values, CLAIMED[score], claim.same)
            entry = {"text": claim.text, "score": name, "same_within": claim.same}
            entries.append(entry | asdict(judgement) | {"published": _published(experiment, claim, score)})
    return entries


def _published(experiment: Experiment, claim: Claim, score: str) -> float | None:
    """The advantage that the paper's own numbers give."""
    figures = {row.key: _figure_of(experiment, row, score) for row in experiment.rows}
    values: Values = {row: [figure.value] for row, figure in figures.items() if figure is not None}
    return next(iter(advantages(claim.weights, values, CLAIMED[score])), None)


def markdown(experiment: Experiment, table: Mapping[str, Any]) -> str:
    """The same for people."""
    parts = [f"# {table['experiment']}: {table['title']}", *(grid.markdown() for grid in grids_of(experiment, table))]
    if table["missing"]:
        parts.append("\n".join(f"- {name}: {reason}" for name, reason in table["missing"].items()))
    return "\n\n".join(parts) + "\n"


def grids_of(experiment: Experiment, table: Mapping[str, Any]) -> list[Grid]:
    """The rows as measured, by label too where the paper's table is, the claims, and the paper's numbers."""
    grids = [measured_grid(table)]
    if experiment.by_label:
        grids.append(labels_grid(table))
    if table["claims"]:
        grids.append(claims_grid(table))
    if experiment.table is not None:
        grids.append(published_grid(experiment.table, COCO))
    return grids


def measured_grid(table: Mapping[str, Any]) -> Grid:
    """The rows as measured, a column for each score."""
    names = list(dict.fromkeys(name for row in table["rows"] for name in row["scores"]))
    rows = tuple(
        (row["method"], row["network"], *(cell(row["scores"].get(name)) for name in names)) for row in table["rows"]
    )
    budget = ", ".join(f"{name} {value}" for name, value in table["budget"].items() if value not in (None, [], ()))
    seeds = f"{table['seeds']} seeds" if table["seeds"] > 1 else "one seed"
    note = f"Means and standard deviations over {seeds} of training. All rows alike: {budget}."
    return Grid("Measured here", ("method", "network", *names), rows, note)


def labels_grid(table: Mapping[str, Any]) -> Grid:
    """The parts of a score by label."""
    parts = {f"{row['network']}, {name}": score["by_label"] for row in table["rows"]
             for name, score in row["scores"].items() if score["by_label"]}  # fmt: skip
    labels = sorted({label for part in parts.values() for label in part})
    rows = tuple((label, *(shown(part.get(label)) for part in parts.values())) for label in labels)
    return Grid("Measured here, by label", ("label", *parts), rows)


def claims_grid(table: Mapping[str, Any]) -> Grid:
    """The claims and their verdicts."""
    rows = tuple(
        (
            claim["text"],
            claim["score"],
            claim["verdict"],
            shown(claim["advantage"], claim["spread"]),
            shown(claim["margin"]),
            shown(claim["published"]),
        )
        for claim in table["claims"]
    )
    note = (
        "An advantage is positive where the claim holds: the mean and standard deviation over seeds of the difference "
        f"between rows of the same seed. It decides where it is over the margin, half its {CONFIDENCE:.0%} confidence "
        "interval (Student's t). The last column is the same difference in the paper's own numbers."
    )
    return Grid("Claims", ("claim", "score", "verdict", "advantage", "margin", "published"), rows, note)


def cell(score: Mapping[str, Any] | None) -> str:
    """The mean and spread of a `summary`, or a dash."""
    return DASH if score is None else shown(score["mean"], score["spread"])
