"""Quality on layouts that are disturbed: boxes moved a little, and numbers, sizes and places that training lacked.

Moved boxes as in PLGAN (Wang et al., 2022), which shifts and scales them by random shares of their sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lostgan_evaluate.images import Region
from lostgan_evaluate.metrics import Metric, with_each_extractor
from lostgan_evaluate.metrics.generating import distance, first_layouts, generate_into, needs_runner
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools, whole
from lostgan_serve.figures import Tile
from lostgan_serve.layout import Box, Layout, LayoutObject
from lostgan_serve.render import layout_picture

SHEET = "robustness.png"

_SMALLEST_SIDE = 0.02  # of a box that is left, of the canvas: objects do not vanish
_LARGE = 0.5  # the longer side of a box, of the canvas
_COLUMNS, _TILE_PX = 8, 144

Objects = tuple[LayoutObject, ...]


@dataclass(frozen=True)
class Disturbance:
    """A change of a layout's objects. words: for people. apply: takes objects, slots, and a source of chance."""

    words: str
    apply: Callable[[Objects, int, np.random.Generator], Objects]


def moved(share: float, objects: Objects, _slots: int, rng: np.random.Generator) -> Objects:
    """Shift each box by up to a share of its sides, and scale its sides by up to that share, evenly distributed."""
    return tuple(replace(item, box=_moved(item.box, rng.uniform(-share, share, 4))) for item in objects)


def _moved(box: Box, shares: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Box:
    x, y, width, height = box
    by_x, by_y, wider, higher = shares.tolist()
    return _placed(x + by_x * width, y + by_y * height, width * (1 + wider), height * (1 + higher))


def resized(factor: float, objects: Objects, _slots: int, _rng: np.random.Generator) -> Objects:
    """Scale the sides of each small box about its centre. Large ones stay: they are the ground that the rest is on."""
    return tuple(replace(item, box=_about_centre(item.box, factor)) if _is_small(item) else item for item in objects)


def _is_small(item: LayoutObject) -> bool:
    return max(item.box[2:]) <= _LARGE


def _about_centre(box: Box, factor: float) -> Box:
    x, y, width, height = box
    return _placed(x + (1 - factor) * width / 2, y + (1 - factor) * height / 2, factor * width, factor * height)


def crowded(objects: Objects, slots: int, rng: np.random.Generator) -> Objects:
    """Fill the slots that are left with copies of small objects at random places."""
    small = [item for item in objects if _is_small(item)] or objects
    copies = []
    for number in range(slots - len(objects)):
        item = small[rng.integers(len(small))]
        width, height = item.box[2:]
        x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        copies.append(replace(item, box=(x, y, width, height), id=f"copy-{number + 1}"))
    return objects + tuple(copies)


def upside_down(objects: Objects, _slots: int, _rng: np.random.Generator) -> Objects:
    """Mirror the places of the boxes at the horizontal midline: what was on top is at the bottom."""
    return tuple(replace(item, box=(item.box[0], 1 - item.box[1] - item.box[3], *item.box[2:])) for item in objects)


DISTURBANCES: Mapping[str, Disturbance] = {
    "moved_5": Disturbance("boxes shifted and scaled by up to 5% of their sides", partial(moved, 0.05)),
    "moved_15": Disturbance("boxes shifted and scaled by up to 15% of their sides", partial(moved, 0.15)),
    "crowded": Disturbance("every slot filled, with copies of small objects at random places", crowded),
    "half_size": Disturbance(f"boxes up to {_LARGE:.0%} of the canvas long at half their sides", partial(resized, 0.5)),
    "double_size": Disturbance(
        f"boxes up to {_LARGE:.0%} of the canvas long at twice their sides", partial(resized, 2.0)
    ),
    "upside_down": Disturbance("boxes mirrored from top to bottom", upside_down),
}
"""The disturbances by name. Training mirrors layouts from left to right, so that is none."""


def _placed(x: float, y: float, width: float, height: float) -> Box:
    """A box clipped at the canvas, with sides that are left of it."""
    left, right = _clipped(x, width)
    top, bottom = _clipped(y, height)
    return left, top, right - left, bottom - top


def _clipped(start: float, length: float) -> tuple[float, float]:
    low = min(max(start, 0.0), 1 - _SMALLEST_SIDE)
    return low, min(max(start + length, low + _SMALLEST_SIDE), 1.0)


def disturbed(layouts: Sequence[Layout], name: str, slots: int, seed: int) -> list[Layout]:
    """Apply a disturbance to layouts; the styles stay. The same seed gives the same layouts."""
    apply, rng = DISTURBANCES[name].apply, np.random.default_rng(seed)
    return [replace(layout, objects=apply(layout.objects, slots, rng)) for layout in layouts]


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.runner is not None
    slots, layouts = subject.runner.manifest.capacity, first_layouts(subject, tools)
    shown = [Row("layout", _layout_tiles(layouts)), Row("image", _tiles([one.file for one in subject.first_styles()]))]
    generated: dict[str, list[Path]] = {}
    for name in DISTURBANCES:
        changed = disturbed(layouts, name, slots, tools.seed)
        generated[name] = generate_into(tools.out / "robustness" / name, changed, subject.runner, tools)
        words = name.replace("_", " ")
        shown += [Row(f"{words}\nlayout", _layout_tiles(changed)), Row(f"{words}\nimage", _tiles(generated[name]))]
    scores = with_each_extractor(partial(_scores, generated))(subject, tools).scores
    return Measured(scores, (write_sheet(tools.out / SHEET, shown, _TILE_PX),))


def _scores(generated: Mapping[str, Sequence[Path]], extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    reading = subject.protocol.reading
    real, before = (
        tools.features.features(extractor, whole(part), reading)["features"]
        for part in (subject.real, subject.first_styles())
    )
    undisturbed = distance(extractor, before, real, tools.seed).value
    scores = []
    for name, files in generated.items():
        after = tools.features.features(extractor, [Region(file) for file in files], reading)["features"]
        far = distance(extractor, after, real, tools.seed)
        facts = {
            **far.facts, "disturbance": DISTURBANCES[name].words, "undisturbed": undisturbed,
            "change": far.value / undisturbed - 1 if undisturbed > 0 else None,
        }  # fmt: skip
        scores.append(replace(far, name=f"{name}_{far.name}", facts=facts))
    return scores


def _layout_tiles(layouts: Sequence[Layout]) -> list[Tile]:
    return [Tile(layout_picture(layout, _TILE_PX)) for layout in layouts[:_COLUMNS]]


def _tiles(files: Sequence[Path]) -> list[Tile]:
    return [Tile(Image.open(file)) for file in files[:_COLUMNS]]


METRIC = Metric(
    "robustness", "Distance to the real images on layouts that are moved, crowded or misplaced", needs_runner, _measure
)
