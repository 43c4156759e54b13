"""Whether a claim of the paper holds here: the difference between rows against its spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from lostgan_evaluate.published import Better

Verdict = Literal["confirmed", "contradicted", "undecided", "not measured"]

CONFIDENCE = 0.95

Values = Mapping[str, Sequence[float | None]]
"""A score by row: one value for each seed, None where there is none."""


@dataclass(frozen=True)
class Judgement:
    """A verdict and its reason.

    advantage: mean over seeds of the claim's weighted sum, positive where the claim holds. spread: its standard
    deviation. margin: half the width of its confidence interval. seeds: how many had every row.
    """

    verdict: Verdict
    seeds: int = 0
    advantage: float | None = None
    spread: float | None = None
    margin: float | None = None


def advantages(weights: Mapping[str, float], values: Values, better: Better) -> list[float]:
    """The weighted sum of the rows for each seed that has them all, with its sign turned where lower is better."""
    sign = 1.0 if better == "higher" else -1.0
    found = []
    for of_seed in zip(*(values.get(row, ()) for row in weights), strict=False):
        known = [value for value in of_seed if value is not None]
        if len(known) == len(weights):
            found.append(sign * sum(weight * value for weight, value in zip(weights.values(), known, strict=True)))
    return found


def judge(weights: Mapping[str, float], values: Values, better: Better, same: float | None = None) -> Judgement:
    """Judge a claim, see `tables.Claim`, by a two-sided t interval over seeds.

    Rows of the same seed are compared with each other: they saw the same data in the same order. One seed has no
    spread, so it decides nothing.
    """
    found = advantages(weights, values, better)
    if not found:
        return Judgement("not measured")
    mean, count = statistics.fmean(found), len(found)
    if count == 1:
        return Judgement("undecided", 1, mean)
    spread = statistics.stdev(found)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    verdict = _ordered(mean, margin) if same is None else _equal(mean, margin, same * _reference(weights, values))
    return Judgement(verdict, count, mean, spread, margin)


def _ordered(mean: float, margin: float) -> Verdict:
    if abs(mean) <= margin:
        return "undecided"
    return "confirmed" if mean > 0 else "contradicted"


def _equal(mean: float, margin: float, allowed: float) -> Verdict:
    if abs(mean) + margin <= allowed:
        return "confirmed"
    return "contradicted" if abs(mean) - margin > allowed else "undecided"


def _reference(weights: Mapping[str, float], values: Values) -> float:
    """The mean score of the row that others are compared with."""
    row = next(row for row, weight in weights.items() if weight == -1.0)
    return abs(statistics.fmean(value for value in values[row] if value is not None))
