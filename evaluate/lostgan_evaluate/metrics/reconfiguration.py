"""Reconfiguration: one object is added, moved, restyled or relabelled, and the picture is to change there alone.

The paper shows it by pictures (figures 9 to 11); here it is measured. Ids and seeds stay, and so do the style codes of
all other objects and of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from lostgan_evaluate.crops import read_crops
from lostgan_evaluate.images import Reading, Region, read
from lostgan_evaluate.metrics import Metric, needs_training
from lostgan_evaluate.metrics.generating import first_layouts, generate_into, needs_runner
from lostgan_evaluate.metrics.recognition import learnt
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.changes import in_boxes, level_changes
from lostgan_serve.choices import MAX_SEED
from lostgan_serve.contract import Array
from lostgan_serve.errors import EvaluationError
from lostgan_serve.figures import Tile
from lostgan_serve.layout import Box, Layout, LayoutObject
from lostgan_serve.render import layout_picture
from lostgan_train.classifier import recognise

SHEET = "reconfiguration.png"
KINDS = ("added", "moved", "restyled", "relabelled")
MOST_LAYOUTS = 200
LONGEST_SIDE = 0.5
"""The longest side of a box that is edited, of the canvas: larger ones are the ground, and leave little outside."""
SHIFT = 0.25
"""The way that a box is moved, to the right or else to the left, of the canvas."""

_LEAST_CHANGE = 1e-6  # of levels: an edit that changes nothing inside reaches far
_COLUMNS, _TILE_PX = 8, 144


@dataclass(frozen=True)
class Edit:
    """An edit of one object. before, after: the layouts. name: the object's id."""

    before: Layout
    after: Layout
    name: str

    @property
    def boxes(self) -> list[Box]:
        """The object's boxes before and after."""
        return [item.box for layout in (self.before, self.after) for item in layout.objects if item.id == self.name]

    @property
    def untouched(self) -> list[LayoutObject]:
        """All other objects."""
        return [item for item in self.after.objects if item.id != self.name]


def edits_of(layout: Layout, labels: Sequence[str], rng: np.random.Generator) -> dict[str, Edit]:
    """An edit of each of `KINDS` of one object of a layout, which is drawn at random; none where all are too large.

    labels: those that another one is drawn from.
    """
    small = [item for item in layout.objects if max(item.box[2:]) <= LONGEST_SIDE]
    if not small or len(layout.objects) < 2:
        return {}
    chosen = small[rng.integers(len(small))]
    others = [label for label in labels if label != chosen.label]
    x, y, width, height = chosen.box
    new_x = x + SHIFT if x + SHIFT + width <= 1 else x - SHIFT
    changed = {
        "moved": replace(chosen, box=(new_x, y, width, height)),
        "restyled": replace(chosen, seed=int(rng.integers(MAX_SEED))),
        "relabelled": replace(chosen, label=others[rng.integers(len(others))]),
    }
    edits = {"added": Edit(_with(layout, chosen, None), layout, chosen.id)}
    return edits | {kind: Edit(layout, _with(layout, chosen, item), chosen.id) for kind, item in changed.items()}


def _with(layout: Layout, chosen: LayoutObject, other: LayoutObject | None) -> Layout:
    """A layout with another object, or none, in place of one."""
    objects = [other if item is chosen else item for item in layout.objects]
    return replace(layout, objects=tuple(item for item in objects if item is not None))


def needs(subject: Subject, tools: Tools) -> str | None:
    """Why it cannot be measured."""
    if reason := needs_runner(subject, tools) or needs_training(subject, tools):
        return reason
    return None if len(_labels(subject)) > 1 else "the model knows one label; there is none to relabel an object to"


def _labels(subject: Subject) -> list[str]:
    """Those of the model, which data may have others than."""
    assert subject.runner is not None
    return list(subject.runner.manifest.vocabulary)


def _measure(subject: Subject, tools: Tools) -> Measured:
    network, labels = learnt(subject, tools), _labels(subject)
    layouts = first_layouts(subject, tools)
    images = {layout.name: sample.file for layout, sample in zip(layouts, subject.first_styles(), strict=True)}
    found = [
        edits_of(layout, labels, np.random.default_rng((tools.seed, place)))
        for place, layout in enumerate(layouts[:MOST_LAYOUTS])
    ]
    scores, rows = [], []
    for kind in KINDS:
        edits = [of_layout[kind] for of_layout in found if of_layout]
        if not edits:
            raise EvaluationError(
                f"no layout has two objects, and one with sides up to {LONGEST_SIDE:.0%} of the canvas"
            )
        pairs = _pictures(kind, edits, images, subject, tools)
        scores.append(_score(kind, edits, pairs, network, subject, tools))
        rows += _rows(kind, edits, pairs, subject.protocol.reading)
    return Measured(tuple(scores), (write_sheet(tools.out / SHEET, rows, _TILE_PX),))


def _pictures(
    kind: str, edits: Sequence[Edit], images: Mapping[str, Path], subject: Subject, tools: Tools
) -> list[tuple[Path, Path]]:
    """The images before and after edits. One of the two was generated for all metrics."""
    assert subject.runner is not None
    adds = kind == "added"
    others = [edit.before if adds else edit.after for edit in edits]
    files = generate_into(tools.out / "reconfiguration" / kind, others, subject.runner, tools)
    kept = [images[layout.name] for layout in others]
    return list(zip(files, kept, strict=True) if adds else zip(kept, files, strict=True))


def _score(
    kind: str,
    edits: Sequence[Edit],
    pairs: Sequence[tuple[Path, Path]],
    network: nn.Module,
    subject: Subject,
    tools: Tools,
) -> Score:
    """The mean change outside the box as a share of that inside."""
    reading = subject.protocol.reading
    means = np.array([_mean_changes(edit, _levels(pair, reading)) for edit, pair in zip(edits, pairs, strict=True)])
    inside, outside = means.mean(0).tolist()
    untouched = [(item, pair) for edit, pair in zip(edits, pairs, strict=True) for item in edit.untouched]
    seen = []
    for place in (0, 1):
        objects = [(Region(pair[place], box=item.box), 0) for item, pair in untouched]
        seen.append(recognise(network, read_crops(objects, reading, tools.progress)[0]))
    facts = {
        "unit": "share of the change inside the box",
        "levels_inside": inside,
        "levels_outside": outside,
        "layouts": len(edits),
        "left_out": min(len(subject.real), MOST_LAYOUTS) - len(edits),
        "untouched_objects": len(untouched),
        "untouched_recognised_otherwise": float((seen[0] != seen[1]).float().mean()),
    }
    return Score(f"{kind}_reach", outside / max(inside, _LEAST_CHANGE), "lower", facts=facts)


def _levels(pair: tuple[Path, Path], reading: Reading) -> Array:
    """By how much each pixel differs."""
    before, after = (read(Region(file), reading) for file in pair)
    return level_changes(before, after)


def _mean_changes(edit: Edit, levels: Array) -> tuple[float, float]:
    """The mean inside the boxes, and outside."""
    inside = in_boxes(edit.boxes, len(levels))
    return float(levels[inside].mean()), float(levels[~inside].mean())


def _rows(kind: str, edits: Sequence[Edit], pairs: Sequence[tuple[Path, Path]], reading: Reading) -> list[Row]:
    """The first edits: layouts after them, images before and after."""
    shown = list(zip(edits, pairs, strict=True))[:_COLUMNS]
    layouts = [Tile(layout_picture(edit.after, _TILE_PX), edit.name) for edit, _ in shown]
    images = [[Tile(Image.fromarray(read(Region(pair[place]), reading))) for _, pair in shown] for place in (0, 1)]
    return [Row(kind, layouts), Row("before", images[0]), Row("after", images[1])]


def table(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The scores of an evaluation.json as a table in Markdown."""
    heads = (
        "one object is",
        "change inside its box",
        "outside",
        "inside / outside",
        "untouched objects recognised otherwise",
    )
    lines = [f"| {' | '.join(heads)} |", "|" + len(heads) * "---|"]
    for kind in KINDS:
        score = scores[f"{kind}_reach"]
        facts = score["facts"]
        ratio = f"{1 / score['value']:.0f}" if score["value"] else "no change outside"
        lines.append(
            f"| {kind} | {facts['levels_inside']:.1f} | {facts['levels_outside']:.2f} | {ratio} "
            f"| {facts['untouched_recognised_otherwise']:.1%} |"
        )
    return lines


METRIC = Metric("reconfiguration", "Change of the picture outside the box of an object that is edited", needs, _measure)
