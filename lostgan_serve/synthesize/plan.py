"""Which layout with which style makes which image, in which shard: a pure function of layouts, recipe and seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from lostgan_serve.layout import Box, Layout
from lostgan_serve.synthesize.filters import overlap
from lostgan_serve.synthesize.recipe import Recipe
from lostgan_serve.synthesize.variation import Cooccurrence, jittered, varied


@dataclass(frozen=True)
class PlanRow:
    """One image of a plan. index: its place in the plan. copy: its place among the images of its layout. dropped:
    objects that were left out as too small. refused: why it makes no image; None where it does."""

    index: int
    shard: int
    copy: int
    layout: Layout
    dropped: int = 0
    refused: str | None = None

    def with_style(self, seed: int, attempt: int) -> Layout:
        """The layout in the style of an attempt, 0 or more. Objects with a seed or style of their own keep it."""
        words = f"lostgan-serve synthesize 1/{seed}/{self.index}/{attempt}"
        digest = hashlib.sha256(words.encode()).digest()
        return replace(self.layout, seed=int.from_bytes(digest[:8], "big") >> 1, style=None)

    def to_json(self, seed: int) -> dict[str, Any]:
        """The row as a JSON value, with the layout in its first style."""
        return {
            "row": self.index,
            "shard": self.shard,
            "source": self.layout.source,
            "copy": self.copy,
            "refused": self.refused,
            "layout": self.with_style(seed, 0).to_json(),
        }


class Plan:
    """The images that layouts make.

    capacity: the most objects that a layout may have. A row is made when it is asked for, so that a plan of a million
    rows takes the memory of its layouts.
    """

    def __init__(self, layouts: Sequence[Layout], recipe: Recipe, capacity: int) -> None:
        self.layouts, self.recipe, self._capacity = layouts, recipe, capacity
        self._copies = _copies(layouts, recipe)

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self) // self.recipe.shard_size)

    def row(self, index: int) -> PlanRow:
        """One image of the plan."""
        number, copy = self._copies[index]
        recipe = self.recipe
        random = Random(f"lostgan-serve plan 1/{recipe.seed}/{number}/{copy}")
        layout = varied(self.layouts[number], recipe.variation, self._cooccurrence, self._capacity, random)
        layout = jittered(layout, recipe.jitter, random)
        filters = recipe.filters
        kept = tuple(item for item in layout.objects if item.box[2] * item.box[3] >= filters.min_box)
        refused = None if kept else "min_box"
        if filters.max_overlap < 1 and _largest_overlap([item.box for item in kept]) > filters.max_overlap:
            refused = "max_overlap"
        dropped = len(layout.objects) - len(kept)
        return PlanRow(index, index // recipe.shard_size, copy, replace(layout, objects=kept), dropped, refused)

    def rows(self) -> Iterator[PlanRow]:
        """All images of the plan."""
        return map(self.row, range(len(self)))

    def shard(self, number: int) -> list[PlanRow]:
        """The images of a shard."""
        size = self.recipe.shard_size
        return [self.row(index) for index in range(number * size, min((number + 1) * size, len(self)))]

    def images_of(self, shards: Sequence[int]) -> int:
        """How many images are planned for some shards."""
        size = self.recipe.shard_size
        return sum(min(size, len(self) - number * size) for number in shards)

    def digest(self) -> str:
        """SHA-256 of all that the plan depends on, in hexadecimal digits."""
        found = hashlib.sha256(json.dumps([asdict(self.recipe), self._capacity]).encode())
        for layout in self.layouts:
            found.update(json.dumps([layout.name, layout.to_json()], ensure_ascii=False).encode())
        return found.hexdigest()

    @cached_property
    def _cooccurrence(self) -> Cooccurrence:
        return Cooccurrence(self.layouts)


@dataclass(frozen=True)
class PlanSummary:
    """Counts of a plan. layouts, images: before and after. refused: rows that make no image, by reason. dropped:
    objects left out as too small. objects: of each label, in the layouts and in the plan."""

    layouts: int
    images: int
    refused: dict[str, int]
    dropped: int
    objects: dict[str, tuple[int, int]]


def summarize(plan: Plan, rows: Sequence[PlanRow] | None = None) -> PlanSummary:
    """Count what a plan makes. rows: those of the plan, where they are at hand."""
    before = Counter(item.label for layout in plan.layouts for item in layout.objects)
    after: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    images = dropped = 0
    for row in plan.rows() if rows is None else rows:
        dropped += row.dropped
        if row.refused is None:
            images += 1
            after.update(item.label for item in row.layout.objects)
        else:
            refused[row.refused] += 1
    labels = sorted({*before, *after}, key=lambda label: (before[label], label))
    counts = {label: (before[label], after[label]) for label in labels}
    return PlanSummary(len(plan.layouts), images, dict(refused), dropped, counts)


def _copies(layouts: Sequence[Layout], recipe: Recipe) -> list[tuple[int, int]]:
    """The rows of a plan: the number of a layout and of its copy. Copies of a layout stand together."""
    copies = [recipe.per_layout] * len(layouts)
    if recipe.balance:
        _balance(copies, layouts, recipe.balance)
    return [(number, copy) for number, count in enumerate(copies) for copy in range(count)]


def _balance(copies: list[int], layouts: Sequence[Layout], target: int) -> None:
    """Add copies of layouts until each label has `target` objects, the rarest label first; its layouts take turns."""
    labels = [Counter(item.label for item in layout.objects) for layout in layouts]
    counts: Counter[str] = Counter()
    for own, times in zip(labels, copies, strict=True):
        counts.update({label: count * times for label, count in own.items()})
    having = {label: [number for number, own in enumerate(labels) if own[label]] for label in counts}
    for label in sorted(counts, key=lambda label: (counts[label], label)):
        turn = 0
        while counts[label] < target:
            number = having[label][turn % len(having[label])]
            copies[number] += 1
            counts.update(labels[number])
            turn += 1


def _largest_overlap(boxes: Sequence[Box]) -> float:
    """The largest intersection over union of two of the boxes."""
    return max((overlap(one, other) for k, one in enumerate(boxes) for other in boxes[:k]), default=0.0)
