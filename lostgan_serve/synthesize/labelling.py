"""Annotations of a generated image: each object's segment, boxes and visibility, from the model's own maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lostgan_serve.contract import Array
from lostgan_serve.errors import require
from lostgan_serve.layout import Box
from lostgan_serve.pipeline import Result

OUTPUTS = ("image", "object_map", "masks")
"""The outputs of the contract that annotations are made of."""

_EXTENT = 0.5
"""The share of its mask's peak from which on a pixel belongs to an object's whole extent. Many masks have no pixel over
half of 255, so that no fixed level would do."""


@dataclass(frozen=True)
class LabelledObject:
    """An object that can be seen in an image of R px.

    slot: its place in the layout. drawn_box: the layout's, tight_box: around its segment; x, y, width, height in px.
    segment: COCO's compressed run lengths of the pixels that it owns in the object map. area: their number.
    visibility: the share of its extent that it owns, 0 to 1; others cover the rest.
    """

    slot: int
    label: str
    id: str
    drawn_box: Box
    tight_box: Box
    segment: dict[str, Any]
    area: int
    visibility: float


def labelled(result: Result) -> list[LabelledObject]:
    """The objects of a result that own at least one pixel, in the layout's order. Raises MissingExtraError."""
    coco = require("pycocotools.mask", "synthesize")
    owners, masks = result.object_map, result.masks
    if owners is None or masks is None:
        raise ValueError("annotations need the object map and the masks; call generate() with both")
    side = len(owners)
    segments = coco.encode(_regions(owners, len(result.layout.objects)))
    tight, areas = coco.toBbox(segments).tolist(), coco.area(segments).tolist()
    found = []
    for slot, item in enumerate(result.layout.objects):
        if areas[slot]:
            x, y, width, height = (round(value * side, 3) for value in item.box)
            found.append(
                LabelledObject(
                    slot,
                    item.label,
                    item.id,
                    (x, y, width, height),
                    tuple(tight[slot]),
                    {"size": [side, side], "counts": segments[slot]["counts"].decode("ascii")},
                    areas[slot],
                    _visibility(owners == slot, masks[slot]),
                )
            )
    return found


def _regions(owners: Array, count: int) -> Array:
    """Whether each object owns each pixel: [R, R, count] uint8, in the order that COCO's run lengths take, column by
    column and object by object."""
    columns = np.ascontiguousarray(owners.T)
    regions: Array = columns == np.arange(count, dtype=np.uint8)[:, None, None]
    return regions.view(np.uint8).transpose(2, 1, 0)


def _visibility(owned: Array, mask: Array) -> float:
    extent = mask >= np.uint8(max(1, math.ceil(_EXTENT * int(mask.max()))))
    whole = np.count_nonzero(extent)
    return round(np.count_nonzero(owned & extent) / whole, 4) if whole else 1.0
