"""What a test of the fault suite counts, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lostgan_export.bench.report import table

PROPERTY = "faults"
"""Name under which a test's tally stands in its report."""


@dataclass
class Tally:
    """Counts of one test.

    faults: how many were injected. answered: pictures, or runs of a command, that were compared. wrong, lost and left:
    a line for each picture that was not the right one, for each result that never came or came twice, and for each
    thing that stayed behind. told: what the commands said of their faults, one line each.
    """

    faults: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Lines that may not be there."""
        named = (("wrong", self.wrong), ("lost", self.lost), ("left over", self.left))
        return [f"{name}: {line}" for name, lines in named for line in lines]


@dataclass(frozen=True)
class Row:
    """A test of the suite. outcome: passed, failed or skipped, and the reason of the last."""

    file: str
    test: str
    seconds: float
    outcome: str
    tally: Tally


def faults_table(rows: Iterable[Row]) -> list[str]:
    """Lines of a table in Markdown: a row for each test, and their sums."""
    cells = [_cells(f"{row.file}: {row.test}", row.tally, row.outcome) for row in rows]
    sums = [str(sum(int(row[column]) for row in cells)) for column in range(1, 6)]
    passed = sum(row[-1] == "passed" for row in cells)
    titles = ("fault", "injected", "answered", "wrong", "lost", "left over", "outcome")
    return table(titles, [*cells, ("all", *sums, f"{passed} of {len(cells)} passed")])


def _cells(name: str, tally: Tally, outcome: str) -> tuple[str, ...]:
    counts = (tally.faults, tally.answered, len(tally.wrong), len(tally.lost), len(tally.left))
    return (name, *map(str, counts), outcome)
