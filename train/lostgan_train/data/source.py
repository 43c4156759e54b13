"""Examples that every format is read into, their vocabulary, and a summary of the faults met on the way."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_serve.layout import Box
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

_NAMED = 3
"""How many problems of a kind the summary names."""


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


class Problem(Exception):  # noqa: N818 - caught where its place in the file is known; a user never meets one
    """Something wrong with one image or object. key: the field. kind: what the summary counts it under."""

    def __init__(self, key: str, kind: str, detail: str) -> None:
        super().__init__(f"{kind} ({detail})")
        self.key, self.kind, self.detail = key, kind, detail


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
        """Add objects with `add`, which returns why it leaves one out, or raises Problem; count both.

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
            _kept("images ", self.images, self.dropped_images, self.paper_images),
            _kept("objects", self.objects, self.dropped_objects),
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
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    beside = "" if of_paper is None else f" (the paper: {of_paper:,})"
    return f"{what} {kept:,} kept{beside}, {dropped.total():,} left out" + (f": {reasons}" if reasons else "")


def _bars(counts: Counter[int]) -> str:
    """A histogram over min ... max as one bar of eight heights for each number."""
    top, numbers = max(counts.values(), default=1), range(min(counts, default=0), max(counts, default=-1) + 1)
    return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * counts[number] / top)] for number in numbers)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


class Images:
    """The image files of a data set, known by listing each folder once."""

    def __init__(self, folder: Path, named: Path | None, parts: Sequence[str] = ()) -> None:
        """folder: the data set's, whose images lie in images/. named: the folder of images that the user named, which
        takes the place of that one. parts: subfolders in which images lie, too, or which stand beside images/."""
        root = named or folder / "images"
        beside = [] if named else [folder / part for part in parts]
        self.folder, self.folders = folder, (*beside, *(root / part for part in parts), root)
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """The file called `name`, which may hold subfolders, in the first folder that has it."""
        for folder in self.folders:
            path = folder / name
            parent = path.parent
            if parent not in self._names:
                self._names[parent] = _names_in(parent)
            if path.name in self._names[parent]:
                return path
        return None

    @cached_property
    def places(self) -> str:
        """The folders that were searched, in words."""
        there = [folder for folder in self.folders if folder.is_dir()] or self.folders
        shown = (place.relative_to(self.folder) if place.is_relative_to(self.folder) else place for place in there)
        return " or ".join(f"{place}/" for place in shown)


def _names_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def find_image(images: Images, name: str, key: str) -> Path:
    """Raises Problem for a file that is in none of the folders."""
    if found := images.find(name):
        return found
    raise Problem(key, "image file missing", f"{name!r} is not in {images.places}")


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
        self.labels.append(label)
        self.boxes.append(box)
        self.weights.append(weight)

    def example(self) -> Example:
        size = (round(self.width), round(self.height))
        return Example(self.image, tuple(self.labels), tuple(self.boxes), tuple(self.weights), size)


def out_of_bounds(count: int, fewest: int, most: int, things: str) -> str | None:
    """Why an image with `count` things is left out; None where it has `fewest` to `most`."""
    if count < fewest:
        return f"with under {fewest} {things}"
    return f"with over {most} {things}" if count > most else None


def leave_out(candidate: Candidate, reason: str, summary: Summary) -> None:
    """Count an image, and its objects, as left out."""
    summary.dropped_images[reason] += 1
    summary.dropped_objects["in images left out"] += len(candidate.labels)


def select(candidates: Iterable[Candidate], vocabulary: Vocabulary, fewest: int, most: int, summary: Summary) -> Source:
    """The images with `fewest` to `most` objects as a source, with its summary completed.

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
    return (f"left out: {reasons}" if reasons else "it holds no images") + first


def own_name(folder: Path) -> str:
    """A vocabulary's name after its folder, never that of a built-in one."""
    name = folder.resolve().name or "data"
    return f"{name}-own" if name in BUILT_IN_NAMES else name


Json = dict[str, Any]


def without(*keys: str) -> Callable[[Json], Json]:
    """A `slim` of `load_json` that leaves those members out."""

    def slim(item: Json) -> Json:
        for key in keys:
            item.pop(key, None)
        return item

    return slim


def load_json(path: Path, slim: Callable[[Json], Any] | None = None) -> Any:
    """The JSON value in a file, each of whose objects becomes `slim` of it as soon as it is parsed.

    So masks of a gigabyte are never in memory together. Raises DataError naming the file and the place.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=slim)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: not JSON ({error.msg} at {where}); is the file complete?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); is the file complete?") from None


def list_in(document: Any, key: str, path: Path) -> list[Any]:
    """The list that a file's JSON object has at `key`. Raises DataError."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise DataError(f'{path}: {key}: must be a list; the file is no COCO JSON {{"{key}": [...], ...}}')
    return value


def member(item: Any, key: str, kind: Any, example: str) -> Any:
    """A member of a JSON object. kind: what `isinstance` takes. Raises Problem where it is missing or of another."""
    if not isinstance(item, dict) or key not in item:
        raise Problem(key, f"{key} missing", f"such as {example}")
    value = item[key]
    if not isinstance(value, kind):
        raise Problem(key, f"{key} of a wrong type", f"such as {example}, not {_short(json.dumps(value), 40)}")
    return value


def number(item: Any, key: str, example: str, above: float = -math.inf) -> float:
    """A finite number over `above`. Raises Problem."""
    value = member(item, key, int | float, example)
    if not (is_finite(value) and value > above):
        raise Problem(key, f"{key} impossible", f"such as {example}, not {_short(str(value), 40)}")
    return float(value)


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # JSON's integers have no bounds
        return False


def note_id(item: Any, key: str, kind: Any, seen: set[Any]) -> Any:
    """Remember the id of an object and return it; None for an object without one.

    Raises Problem where an object before it has the same.
    """
    own = item.get(key)
    if not isinstance(own, kind):
        return None
    if own in seen:
        raise Problem(key, "object id standing twice", f"{own!r}")
    seen.add(own)
    return own


def unit_box(box: Sequence[float], width: float, height: float, overhang: float, key: str = "bbox") -> Box:
    """[x, y, width, height] in pixels of an image of `width` x `height` as shares of it, clipped at its edges.

    overhang: the most that may be clipped off, as a share of the image's side; a pixel always may. Raises Problem.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise Problem(key, "box without area", f"{list(box)}")
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    over_x, over_y = max(left - x, x + w - right), max(top - y, y + h - bottom)
    gone = right - left < min(w, 1) / 2 or bottom - top < min(h, 1) / 2
    if gone or over_x > max(1, overhang * width) or over_y > max(1, overhang * height):
        raise Problem(key, "box outside the image", f"{list(box)} on {width:g} x {height:g} px")
    return left / width, top / height, (right - left) / width, (bottom - top) / height
