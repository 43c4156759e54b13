"""Images with their objects: examples, which every format is read into, and candidates, which become examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lostgan_serve.errors import DataError
from lostgan_serve.layout import Box
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary
from lostgan_train.data.images import MISSING
from lostgan_train.data.summary import Summary


@dataclass(frozen=True)
class Example:
    """One image and its layout.

    labels: vocabulary ids. boxes: x, y, width, height in [0, 1], origin top left. weights: the probability that a
    detector gave each object, 1 for annotated ones (equation 15). size_px: the width and height that the annotations
    state, which tells whether they were drawn before or after the rotation that an EXIF tag asks for.
    """

    image: Path
    labels: tuple[int, ...]
    boxes: tuple[Box, ...]
    weights: tuple[float, ...]
    size_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """An opened data set."""

    examples: tuple[Example, ...]
    vocabulary: Vocabulary
    summary: Summary


@dataclass
class Candidate:
    """An image while its objects are gathered; it becomes an example if their number is right."""

    image: Path
    width: float
    height: float
    labels: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, label: int, box: Box, weight: float = 1.0) -> None:
        """Add an object: its label's id, its box as shares of the image, and its probability."""
        self.labels.append(label)
        self.boxes.append(box)
        self.weights.append(weight)

    def has(self, label: int, box: Box) -> bool:
        """Whether it has an object of that label and box."""
        return (label, box) in zip(self.labels, self.boxes, strict=True)

    def example(self) -> Example:
        """The image with the objects that were added."""
        size = (round(self.width), round(self.height))
        return Example(self.image, tuple(self.labels), tuple(self.boxes), tuple(self.weights), size)


def out_of_bounds(count: int, fewest: int, most: int, things: str) -> str | None:
    """The reason for which an image with `count` things is left out; None where it has `fewest` to `most`."""
    if count < fewest:
        return f"with under {fewest} {things}"
    return f"with over {most} {things}" if count > most else None


def leave_out(candidate: Candidate, reason: str, summary: Summary) -> None:
    """Count an image, and its objects, as left out."""
    summary.dropped_images[reason] += 1
    summary.dropped_objects["in images left out"] += len(candidate.labels)


def select(candidates: Iterable[Candidate], vocabulary: Vocabulary, fewest: int, most: int, summary: Summary) -> Source:
    """Make a source of the images with `fewest` to `most` objects, and complete its summary.

    Raises DataError where none is left.
    """
    examples = []
    for candidate in candidates:
        if reason := out_of_bounds(len(candidate.labels), fewest, most, "objects"):
            leave_out(candidate, reason, summary)
        else:
            examples.append(candidate.example())
    if not examples:
        raise DataError(f"{summary.folder}: no image is left of this {summary.format}; {_why_none(summary)}")
    summary.vocabulary, summary.slots = f"{vocabulary.name} of {len(list(vocabulary))} labels", vocabulary.slots
    summary.images, summary.objects = len(examples), sum(len(example.labels) for example in examples)
    summary.objects_per_image.update(len(example.labels) for example in examples)
    for example in examples:
        summary.labels.update(vocabulary.labels[label] for label in example.labels)
    summary.unused = tuple(label for label in vocabulary if label not in summary.labels)
    return Source(tuple(examples), vocabulary, summary)


def _why_none(summary: Summary) -> str:
    dropped = summary.dropped_images + summary.dropped_objects
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(4))
    first = next((f" (first: {places[0]})" for places in summary.places.values()), "")
    fix = "; name the folder with --images" if MISSING in summary.problems else ""
    return (f"left out: {reasons}" if reasons else "it holds no images") + first + fix


def own_name(folder: Path) -> str:
    """A vocabulary's name after its folder, never that of a built-in one."""
    name = folder.resolve().name.encode("utf-8", "replace").decode() or "data"
    return f"{name}-own" if name in BUILT_IN_NAMES else name
