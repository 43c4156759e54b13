"""Runs side by side: their scores, what they were made of, and why two of them may differ."""

from __future__ import annotations

from collections.abc import Sequence

from lostgan_evaluate.grids import DASH, Grid, shown
from lostgan_evaluate.published import PUBLISHED, of_the_papers_network, published_grid, stands_for
from lostgan_evaluate.report.runs import ReadScore, Run

_ARROWS = {"higher": "↑", "lower": "↓", "nearer": "→"}
_ALWAYS = ("model.variant", "model.resolution", "subject.images", "subject.layouts", "data.name", "data.vocabulary")
_ALWAYS_PROTOCOL = ("protocol.name", "protocol.split", "protocol.samples", "seed", "extractors")


def scores_grid(runs: Sequence[Run]) -> Grid:
    """The scores of all runs: a row for each score, so that numbers of two networks never stand side by side."""
    rows = []
    for name in _score_names(runs):
        found = [run.scores.get(name) for run in runs]
        better = next(score.better for score in found if score is not None)
        rows.append((f"{name} {_ARROWS[better]}", *map(_cell, found)))
    note = (
        "↑ higher is better, ↓ lower is better, → nearer to real images is better. "
        "± is a standard deviation; in brackets, the same of real images."
    )
    return Grid("Scores", ("score", *(run.name for run in runs)), tuple(rows), note)


def facts_grid(runs: Sequence[Run]) -> Grid:
    """The main facts of each run."""
    return _facts(runs, "Runs", [name for name in (*_ALWAYS, *_ALWAYS_PROTOCOL) if _known(runs, name)])


def differences_grid(runs: Sequence[Run]) -> Grid:
    """Everything that scores depend on, and in which the runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.facts)
    differing = [name for name in names if name != "subject.name" and _differs(runs, name)]
    note = "" if differing else "The runs agree in all that their files tell."
    grid = _facts(runs, "Why numbers differ", differing)
    return Grid(grid.title, grid.heads, grid.rows, note)


def all_facts_grid(runs: Sequence[Run]) -> Grid:
    """Everything that scores depend on."""
    return _facts(runs, "All facts", list(dict.fromkeys(name for run in runs for name in run.facts)))


def left_out_grid(runs: Sequence[Run]) -> Grid:
    """The metrics that were not measured, with the reasons."""
    rows = [(name, run.name, reason) for run in runs for name, reason in run.left_out.items()]
    return Grid("Not measured", ("metric", "run", "reason"), tuple(rows))


def published_grids(runs: Sequence[Run]) -> list[Grid]:
    """The tables of the paper that show a score which one of the runs has, or has a stand-in for."""
    asked = {stands_for(name) for name in _score_names(runs)}
    tables = sorted({row.table for row in PUBLISHED if asked & set(row.scores)})
    return [published_grid(table) for table in tables]


def comparability(runs: Sequence[Run]) -> list[str]:
    """Sentences on how far the runs' scores may be held against the paper's."""
    names = [name for name in _score_names(runs) if stands_for(name)]
    same = [name for name in names if of_the_papers_network(name)]
    other = [f"{name} (in place of {stands_for(name)})" for name in names if not of_the_papers_network(name)]
    lines = []
    if same:
        lines.append(f"Measured with the paper's kind of network, so comparable on the same data: {listed(same)}.")
    if other:
        lines.append(f"Measured with other networks, so not comparable with the paper's numbers: {listed(other)}.")
    vocabularies = {run.facts.get("data.vocabulary", "unknown") for run in runs}
    if foreign := sorted(vocabularies - {"coco-stuff", "visual-genome"}):
        lines.append(f"The paper's data are COCO-Stuff and Visual Genome; here: {listed(foreign)}.")
    return lines


def listed(words: Sequence[str]) -> str:
    """Words with commas between."""
    return ", ".join(words)


def _score_names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.scores))


def _known(runs: Sequence[Run], name: str) -> bool:
    return any(name in run.facts for run in runs)


def _differs(runs: Sequence[Run], name: str) -> bool:
    """Whether runs differ in a fact; in that of a score, only those that have the score."""
    values = {run.facts.get(name) for run in runs}
    return len(values - {None} if name.startswith("score.") else values) > 1


def _facts(runs: Sequence[Run], title: str, names: Sequence[str]) -> Grid:
    rows = tuple((name, *(run.facts.get(name, DASH) for run in runs)) for name in names)
    return Grid(title, ("fact", *(run.name for run in runs)), rows)


def _cell(score: ReadScore | None) -> str:
    if score is None:
        return DASH
    text = shown(score.value, score.spread)
    return text if score.real is None else f"{text} ({shown(score.real)})"
