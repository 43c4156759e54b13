"""Changes of a layout: boxes moved within bounds, objects added, dropped and swapped by what occurs together.

Random numbers come from `random.Random.random` alone, whose sequence is the same in every release of Python.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from lostgan_serve.layout import SMALLEST_SIDE, Box, Layout, LayoutObject
from lostgan_serve.synthesize.recipe import Jitter, Variation


class Cooccurrence:
    """Which labels stand together in layouts, and where."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._together: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._boxes: defaultdict[str, list[Box]] = defaultdict(list)
        for layout in layouts:
            labels = {item.label for item in layout.objects}
            for label in labels:
                self._together[label].update(labels)
            for item in layout.objects:
                self._boxes[item.label].append(item.box)
        self._labels = sorted(self._boxes)

    def label(self, beside: Sequence[str], random: Random, but: str | None = None) -> str | None:
        """A label, drawn by the mean share, over the labels of `beside`, of layouts that have both; None where no other
        than `but` occurs with them."""
        known = [label for label in self._labels if label != but]
        weights = [sum(self._together[b][label] / self._together[b][b] for b in beside) for label in known]
        return _drawn(known, weights, random)

    def box(self, label: str, random: Random) -> Box:
        """The box of some object with this label."""
        boxes = self._boxes[label]
        return boxes[int(random.random() * len(boxes))]


def varied(layout: Layout, variation: Variation, others: Cooccurrence, capacity: int, random: Random) -> Layout:
    """A layout with objects dropped, swapped and added. The last object is not dropped. Ids are kept, and styles with
    them. An added object is called "added-1"; it takes the box of an object with its label in another layout."""
    objects = list(layout.objects)
    if random.random() < variation.drop and len(objects) > 1:
        del objects[int(random.random() * len(objects))]
    if random.random() < variation.swap:
        place = int(random.random() * len(objects))
        beside = [item.label for k, item in enumerate(objects) if k != place]
        if (label := others.label(beside, random, but=objects[place].label)) is not None:
            objects[place] = replace(objects[place], label=label)
    if random.random() < variation.add and len(objects) < capacity:
        label = others.label([item.label for item in objects], random)
        ids = {item.id for item in objects}
        if label is not None and (name := "added-1") not in ids:
            objects.append(LayoutObject(label, others.box(label, random), name))
    return replace(layout, objects=tuple(objects))


def jittered(layout: Layout, jitter: Jitter, random: Random) -> Layout:
    """A layout whose boxes have moved within the bounds, and lie in the canvas."""
    flip = random.random() < jitter.flip
    objects = []
    for item in layout.objects:
        x, y, width, height = item.box
        box = 1.0 - x - width if flip else x, y, width, height
        if jitter.shift or jitter.scale:
            left, right = _moved(box[0], width, jitter, random)
            top, bottom = _moved(y, height, jitter, random)
            box = left, top, right - left, bottom - top
        objects.append(replace(item, box=box))
    return replace(layout, objects=tuple(objects))


def _moved(start: float, length: float, jitter: Jitter, random: Random) -> tuple[float, float]:
    """The ends of a side, moved and scaled about its middle, and cut at the canvas."""
    middle = start + length / 2 + jitter.shift * length * (2 * random.random() - 1)
    factor = 1 + jitter.scale * random.random()
    factor = factor if random.random() < 0.5 else 1 / factor
    half = max(length * factor, SMALLEST_SIDE) / 2
    low = min(max(middle - half, 0.0), 1.0 - SMALLEST_SIDE)
    return low, max(min(middle + half, 1.0), low + SMALLEST_SIDE)


def _drawn(items: Sequence[str], weights: Sequence[float], random: Random) -> str | None:
    left = random.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        left -= weight
        if weight > 0 and left < 0:
            return item
    return None
