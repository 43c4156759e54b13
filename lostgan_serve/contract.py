"""The tensor contract between every part of lostgan-serve. Names, dtypes, shapes and the pad slot live here only.

Shapes use B (batch), O (object slots, static per model) and R (resolution in pixels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

Z_DIM = 128
"""Length of the image style code and of each object style code."""

RESOLUTIONS = (64, 128, 256, 512)
"""Image sides in pixels that a LostGAN generator is defined for."""

IMAGE_LABEL = 0
"""Id of `__image__`: the label of Visual Genome's background object, and of empty slots."""

PAD_BOX = (-0.6, -0.6, 0.5, 0.5)
"""Box of an empty slot. It lies outside the canvas, so no mask is ever pasted from it."""

BACKGROUND_BOX = (0.0, 0.0, 1.0, 1.0)

NO_OBJECT = 255
"""Value of `object_map` where no slot owns the pixel."""

MAX_SLOTS = 254
"""The most slots that an 8-bit `object_map` can tell apart besides `NO_OBJECT`."""

MAX_LABELS = 10_000
"""The most labels of a vocabulary: fifty times Visual Genome's."""

MAX_BATCH = 1024
"""The largest batch a model is made for. Its inputs and outputs at 512 px and 254 slots take 64 GiB."""

MAX_CODE = 8.0
"""The largest element of a style code, of either sign. One standard normal in 10^15 is larger, so that no code that was
drawn meets it, and no mix of two. Farther out pictures turn into noise; in fp16 some were black from 14 on, in fp32 all
from 10^6 on."""

MAX_COORDINATE = 1000.0
"""The largest number in a box, of either sign, in units of the canvas: float32 places an edge to a thirtieth of a pixel
there. Boxes of layouts lie inside the canvas, but for those of empty slots."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of the contract; `dims` leaves out the batch dimension."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]


def input_specs(slots: int) -> tuple[TensorSpec, ...]:
    """Inputs of a model with `slots` object slots, in graph order."""
    return (
        TensorSpec("labels", np.dtype(np.int64), (slots,)),
        TensorSpec("boxes", np.dtype(np.float32), (slots, 4)),
        TensorSpec("z_obj", np.dtype(np.float32), (slots, Z_DIM)),
        TensorSpec("z_img", np.dtype(np.float32), (Z_DIM,)),
    )


def output_specs(slots: int, resolution: int) -> tuple[TensorSpec, ...]:
    """Outputs of a model with `slots` object slots at `resolution` px, in graph order."""
    uint8 = np.dtype(np.uint8)
    return (
        TensorSpec("image", uint8, (resolution, resolution, 3)),
        TensorSpec("object_map", uint8, (resolution, resolution)),
        TensorSpec("masks", uint8, (slots, resolution, resolution)),
    )


INPUT_NAMES = tuple(spec.name for spec in input_specs(0))
OUTPUT_NAMES = tuple(spec.name for spec in output_specs(0, 0))


def empty_batch(batch: int, slots: int) -> dict[str, Array]:
    """Contract inputs for `batch` layouts in which every slot is empty and every code zero."""
    tensors = {spec.name: np.zeros((batch, *spec.dims), spec.dtype) for spec in input_specs(slots)}
    tensors["boxes"][:] = PAD_BOX
    return tensors


def fault(tensors: Tensors, slots: int, labels: int) -> str | None:
    """Say why a batch is not one that a model with `slots` object slots and `labels` labels can generate; None where it
    is. The reason names the tensor and its bound."""
    for spec in input_specs(slots):
        found = tensors[spec.name]
        if found.dtype != spec.dtype or found.shape[1:] != spec.dims:
            return f"{spec.name}: {found.dtype} {found.shape[1:]} a layout, not {spec.dtype} {spec.dims}"
    sizes = {name: len(tensors[name]) for name in INPUT_NAMES}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        return f"{', '.join(f'{name} {size}' for name, size in sizes.items())}: give all the same number of layouts"
    return _fault_of_values(tensors, labels)


def _fault_of_values(tensors: Tensors, labels: int) -> str | None:
    ids, boxes = tensors["labels"], tensors["boxes"]
    if ids.min() < 0 or ids.max() >= labels:
        return f"labels: ids must be 0 to {labels - 1}, not {ids.min()} to {ids.max()}"
    for name, bound in (("boxes", MAX_COORDINATE), ("z_obj", MAX_CODE), ("z_img", MAX_CODE)):
        extreme = tensors[name].flat[np.abs(tensors[name]).argmax()]  # NaN where there is one
        if not np.isfinite(extreme):
            return f"{name}: holds a value that is not finite"
        if abs(extreme) > bound:
            return f"{name}: values must be from {-bound:g} to {bound:g}, not {extreme:g}"
    if boxes[..., 2:].min() <= 0:
        return f"boxes: width and height must be above 0, also in empty slots (their box is {PAD_BOX})"
    return None


def rows(tensors: Tensors, start: int, stop: int) -> dict[str, Array]:
    """Views of the layouts from `start` up to `stop` of a batch."""
    return {name: array[start:stop] for name, array in tensors.items()}


def concatenated(batches: Sequence[Tensors]) -> dict[str, Array]:
    """One batch of the layouts of several, which have the same names."""
    if len(batches) == 1:
        return dict(batches[0])
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
