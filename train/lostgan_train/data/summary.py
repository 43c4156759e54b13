"""A summary of the faults met while a data set is read, and of the parts that are left."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_train.data.fields import Problem

_NAMED = 3
"""Problems of a kind that the summary names."""

_REASONS = 6
"""Reasons for leaving something out that stand on a line."""


@dataclass
class Summary:
    """A summary of a data set: the parts that were kept, and the others with the reason.

    strict: problems are refused and not skipped. images, objects: kept. dropped_images, dropped_objects: how many by
    reason. problems: how many by kind; `places` names the first few of each. objects_per_image: images by number of
    objects. labels: objects by label. paper_images: how many images the paper keeps of this split, if it says so.
    """

    folder: str = ""
    format: str = ""
    strict: bool = False
    vocabulary: str = ""
    slots: int = 0
    images: int = 0
    objects: int = 0
    dropped_images: Counter[str] = field(default_factory=Counter)
    dropped_objects: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    objects_per_image: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unused: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    paper_images: int | None = None

    def add_problem(self, file: Path, place: str, problem: Problem) -> None:
        """Count a problem of `place` in `file`, such as "images[3]". Raises DataError with `strict`."""
        if self.strict:
            raise DataError(f"{file}: {place}.{problem.key}: {problem}; mend it, or leave out --strict to skip it")
        self.problems[problem.kind] += 1
        places = self.places.setdefault(problem.kind, [])
        if len(places) < _NAMED:
            places.append(f"{file.name} {place}.{problem.key} {problem.detail}")

    def gather(self, file: Path, place: str, items: Iterable[Any], add: Callable[[Any], str | None]) -> None:
        """Add objects with `add`, which returns the reason for leaving one out, or raises Problem; count both.

        place: of the list in the file, such as "annotations".
        """
        for index, item in enumerate(items):
            try:
                reason = add(item)
            except Problem as problem:
                self.add_problem(file, f"{place}[{index}]", problem)
                reason = problem.kind
            if reason:
                self.dropped_objects[reason] += 1

    def lines(self) -> list[str]:
        """The summary as at most 25 lines of text."""
        spread = sorted(self.objects_per_image.elements()) or [0]
        middle = f"median {statistics.median(spread):g}, mean {statistics.fmean(spread):.1f}"
        return [
            f"{self.folder}: {self.format}; vocabulary {self.vocabulary}, {self.slots} slots",
            *self.notes[:4],
            _kept("images ", self.images, +self.dropped_images, self.paper_images),
            _kept("objects", self.objects, +self.dropped_objects),
            f"per image: {spread[0]} to {spread[-1]} objects, {middle}  {_bars(self.objects_per_image)}".rstrip(),
            *self._label_lines(),
            *self._problem_lines(),
        ]

    def _label_lines(self) -> list[str]:
        cells = [f"{_short(name, 18)} {count:,}" for name, count in self.labels.most_common()]
        shown = cells if len(cells) <= 32 else [*cells[:24], "...", *cells[-7:]]
        rows = [shown[start : start + 4] for start in range(0, len(shown), 4)]
        lines = [f"labels: {len(self.labels)} used", *("  " + "".join(f"{c:28}" for c in row).rstrip() for row in rows)]
        if self.unused:
            more = f" and {len(self.unused) - 8} more" if len(self.unused) > 8 else ""
            lines.append(f"  never: {', '.join(_short(name, 18) for name in self.unused[:8])}{more}")
        return lines

    def _problem_lines(self) -> list[str]:
        if not self.problems:
            return ["problems: none"]
        worst = self.problems.most_common(6)
        hidden = len(self.problems) - len(worst)
        return [
            f"problems: {self.problems.total():,}, skipped" + (f"; {hidden} more kinds" if hidden else ""),
            *(f"  {count:,} x {kind}: {_short('; '.join(self.places[kind]), 160)}" for kind, count in worst),
        ]


def _kept(what: str, kept: int, dropped: Counter[str], of_paper: int | None = None) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(_REASONS))
    if len(dropped) > _REASONS:
        reasons += f", and {len(dropped) - _REASONS} more kinds"
    beside = "" if of_paper is None else f" (the paper: {of_paper:,})"
    return f"{what} {kept:,} kept{beside}, {dropped.total():,} left out" + (f": {reasons}" if reasons else "")


def _bars(counts: Counter[int]) -> str:
    """A histogram over min ... max as one bar of eight heights for each number."""
    top, numbers = max(counts.values(), default=1), range(min(counts, default=0), max(counts, default=-1) + 1)
    return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * counts[number] / top)] for number in numbers)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
