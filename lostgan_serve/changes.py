"""What differs between two layouts, and by how much their pictures differ, inside the boxes concerned and outside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lostgan_serve.contract import Array
from lostgan_serve.layout import Box, Layout, LayoutObject
from lostgan_serve.styles import style_codes

Float32 = npt.NDArray[np.float32]

_SAME = 1e-6
"""The most by which a box may differ that has not changed, in units of the canvas: rounding of pixels to units."""


@dataclass(frozen=True)
class Change:
    """One object that differs between two layouts. kinds: added, removed, or some of moved, resized, relabelled and
    restyled. before, after: the object; None where a layout has none of this id."""

    kinds: tuple[str, ...]
    before: LayoutObject | None
    after: LayoutObject | None

    @property
    def objects(self) -> list[LayoutObject]:
        """The object before and after, as far as it is there."""
        return [item for item in (self.before, self.after) if item]

    @property
    def name(self) -> str:
        """The object's id and, where they differ, its labels."""
        labels = dict.fromkeys(item.label for item in self.objects)
        return self.objects[0].id + (f" ({' -> '.join(labels)})" if len(labels) > 1 else "")


@dataclass(frozen=True)
class Changes:
    """The difference of two layouts. objects: in the order of the first layout, then those that were added. picture:
    whether the style of the picture as a whole differs."""

    objects: tuple[Change, ...]
    picture: bool

    @property
    def boxes(self) -> list[Box]:
        """The boxes of changed objects, before and after."""
        return [item.box for change in self.objects for item in change.objects]


def changes(before: Layout, after: Layout) -> Changes:
    """Compare two layouts. Objects of the same id are the same object; their order does not matter."""
    old, new = ({item.id: item for item in layout.objects} for layout in (before, after))
    old_codes, new_codes = style_codes([before, after])
    old_styles = dict(zip(old, old_codes.objects, strict=True))
    new_styles = dict(zip(new, new_codes.objects, strict=True))
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            kinds = ["removed"]
        elif name not in old:
            kinds = ["added"]
        else:
            kinds = _kinds(old[name], new[name])
            kinds += [] if np.array_equal(old_styles[name], new_styles[name]) else ["restyled"]
        if kinds:
            found.append(Change(tuple(kinds), old.get(name), new.get(name)))
    return Changes(tuple(found), picture=not np.array_equal(old_codes.image, new_codes.image))


def _kinds(before: LayoutObject, after: LayoutObject) -> list[str]:
    differs = [abs(one - other) > _SAME for one, other in zip(before.box, after.box, strict=True)]
    kinds = {"moved": any(differs[:2]), "resized": any(differs[2:]), "relabelled": before.label != after.label}
    return [kind for kind, there in kinds.items() if there]


def level_changes(before: Array, after: Array) -> Float32:
    """By how much each pixel of two images [R, R, 3] differs: [R, R] float32, levels of 255, the mean of its three."""
    levels: Float32 = np.abs(before.astype(np.float32) - after.astype(np.float32)).mean(-1)
    return levels


def in_boxes(boxes: Iterable[Box], side_px: int) -> npt.NDArray[np.bool_]:
    """Whether each pixel of a square picture lies in any of the boxes, if only by a part: [side, side] bool."""
    inside = np.zeros((side_px, side_px), np.bool_)
    for x, y, width, height in boxes:
        left, top = int(x * side_px + _SAME), int(y * side_px + _SAME)
        right, bottom = (-int(-(end * side_px - _SAME) // 1) for end in (x + width, y + height))
        inside[top:bottom, left:right] = True
    return inside


def describe(found: Changes, levels: Float32) -> list[str]:
    """A line for each kind of change of the layouts, and one for the images'. levels: see `level_changes`."""
    names: dict[str, list[str]] = {"restyled": ["the picture as a whole"]} if found.picture else {}
    for change in found.objects:
        names.setdefault(" and ".join(change.kinds), []).append(change.name)
    lines = [f"{kinds}: {', '.join(those)}" for kinds, those in names.items()]
    inside = in_boxes(found.boxes, len(levels))
    places = {" in the boxes that changed": inside, " elsewhere": ~inside} if inside.any() else {"": ~inside}
    means = [f"{levels[where].mean():.1f}{place}" for place, where in places.items() if where.any()]
    return [*(lines or ["the layouts do not differ"]), f"mean change in levels of 255: {', '.join(means)}"]
