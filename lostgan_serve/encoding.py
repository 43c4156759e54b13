"""Layouts to the contract's tensors. Padding and the background object are stated here, for training data, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lostgan_serve.contract import (
    BACKGROUND_BOX,
    IMAGE_LABEL,
    MAX_SLOTS,
    PAD_BOX,
    Array,
    Tensors,
    empty_batch,
    fault,
    rows,
)
from lostgan_serve.errors import LayoutError, VocabularyError
from lostgan_serve.layout import Box, Layout
from lostgan_serve.manifest import Manifest
from lostgan_serve.styles import style_codes


def encode(layouts: Sequence[Layout], manifest: Manifest) -> dict[str, Array]:
    """The contract's inputs for one batch. Raises LayoutError for a layout that the model cannot generate."""
    for layout in layouts:
        check(layout, manifest)
    tensors = empty_batch(len(layouts), manifest.slots)
    vocabulary = manifest.vocabulary
    for row, (layout, codes) in enumerate(zip(layouts, style_codes(layouts), strict=True)):
        count = len(layout.objects)
        labels = [vocabulary.id_of(item.label) for item in layout.objects]
        boxes = [item.box for item in layout.objects]
        tensors["labels"][row], tensors["boxes"][row] = padded(
            labels, boxes, manifest.slots, background=vocabulary.background
        )
        tensors["z_img"][row] = codes.image
        tensors["z_obj"][row, :count] = codes.objects
        if vocabulary.background:
            tensors["z_obj"][row, count] = codes.background
    if fault(tensors, manifest.slots, len(vocabulary)):
        _name_fault(layouts, tensors, manifest)
    return tensors


def padded(
    labels: Sequence[int], boxes: Sequence[Box] | npt.NDArray[np.float32], slots: int, *, background: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The objects of one layout in the slots of a model: labels [O] int64 and boxes [O, 4] float32.

    Objects keep their order. background: the background object follows the last of them. All other slots are empty.
    """
    count = len(labels)
    slot_labels = np.full(slots, IMAGE_LABEL, np.int64)
    slot_boxes = np.full((slots, 4), PAD_BOX, np.float32)
    slot_labels[:count] = labels
    slot_boxes[:count] = np.asarray(boxes, np.float32).reshape(count, 4)
    if background:
        slot_boxes[count] = BACKGROUND_BOX
    return slot_labels, slot_boxes


def _name_fault(layouts: Sequence[Layout], tensors: Tensors, manifest: Manifest) -> None:
    """Raise LayoutError naming the first layout whose tensors no model can generate. It was made in Python: files are
    checked when they are read."""
    for row, layout in enumerate(layouts):
        if reason := fault(rows(tensors, row, row + 1), manifest.slots, len(manifest.vocabulary)):
            raise LayoutError(f"{layout.source}: {reason}")


def check(layout: Layout, manifest: Manifest) -> None:
    """Raise LayoutError unless the model knows the labels and has a slot for every object."""
    if len(layout.objects) > manifest.capacity:
        most = MAX_SLOTS - manifest.vocabulary.background
        possible = len(layout.objects) <= most
        fix = f"or export one with --max-objects {len(layout.objects)}" if possible else f"no model takes over {most}"
        raise LayoutError(
            f"{layout.source}: objects: {len(layout.objects)} of them, but the model has room for {manifest.capacity}; "
            f"remove some, {fix}"
        )
    for index, item in enumerate(layout.objects):
        try:
            manifest.vocabulary.id_of(item.label)
        except VocabularyError as error:
            raise LayoutError(f"{layout.source}: objects[{index}].label: {error}") from None
