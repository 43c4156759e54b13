"""Bars for the page: plain numbers that the template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lostgan_evaluate.grids import shown
from lostgan_evaluate.report.runs import ReadScore, Run


@dataclass(frozen=True)
class Bar:
    """One bar. series: which run's, counted from 0. length, low, high: in percent of the longest; low and high are the
    ends of the spread."""

    series: int
    text: str
    length: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Bars under one label."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Chart:
    """A chart. legend: names of the series, in their order."""

    title: str
    legend: tuple[str, ...]
    groups: tuple[Group, ...]
    note: str = ""


def label_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each score that has parts by label, with the worst label of the first run that has it on top."""
    names = dict.fromkeys(name for run in runs for name, score in run.scores.items() if score.by_label)
    return [_label_chart(name, runs) for name in names]


def score_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each score that at least two runs have, with spreads and the value of real images."""
    charts = []
    for name in dict.fromkeys(name for run in runs for name in run.scores):
        found = [(k, run.name, run.scores[name]) for k, run in enumerate(runs) if name in run.scores]
        if len(found) > 1:
            charts.append(_score_chart(name, found))
    return charts


def _label_chart(name: str, runs: Sequence[Run]) -> Chart:
    parts = [(k, run.scores[name].by_label) for k, run in enumerate(runs) if name in run.scores]
    better = next(run.scores[name].better for run in runs if name in run.scores)
    first = {label: value for _, part in reversed(parts) for label, value in part.items()}
    labels = sorted(first, key=first.__getitem__, reverse=better == "lower")
    most = max((abs(value) for _, part in parts for value in part.values()), default=0.0)
    groups = tuple(
        Group(label, tuple(_bar(k, part[label], None, most) for k, part in parts if label in part)) for label in labels
    )
    return Chart(f"{name} by label", tuple(run.name for run in runs), groups, f"{better} is better; the worst on top")


def _score_chart(name: str, found: Sequence[tuple[int, str, ReadScore]]) -> Chart:
    most = max(max(abs(score.value) + (score.spread or 0.0), abs(score.real or 0.0)) for _, _, score in found)
    groups = [Group(run, (_bar(k, score.value, score.spread, most),)) for k, run, score in found]
    reals = [score.real for _, _, score in found if score.real is not None]
    if reals:
        groups.append(Group("real images", (_bar(len(found), reals[0], None, most),)))
    return Chart(name, (), tuple(groups), f"{found[0][2].better} is better")


def _bar(series: int, value: float, spread: float | None, most: float) -> Bar:
    def percent(number: float) -> float:
        return round(100 * min(max(number, 0.0) / most, 1.0), 2) if most > 0 else 0.0

    around = spread or 0.0
    return Bar(series, shown(value, spread), percent(value), percent(value - around), percent(value + around))
