"""Numbers that evaluation gives, and how they are kept: `evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower", "nearer"]


@dataclass(frozen=True)
class Score:
    """One number.

    name: says what was measured and with which network, such as "fd_efficientnet_lite0". FID, KID and IS are the names
    of Inception's alone. better: which direction is, or "nearer" to `real`. spread: standard deviation; `facts` says
    over what. real: the same measured on real images, the ceiling or floor. by_label: parts of it, by label. facts:
    counts and settings that the number depends on.
    """

    name: str
    value: float
    better: Better
    spread: float | None = None
    real: float | None = None
    by_label: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Scores of one metric. sheets: names of the pictures that it wrote into the folder of the results."""

    scores: tuple[Score, ...]
    sheets: tuple[str, ...] = ()
