"""How well a generator keeps to layouts: its object maps against the true masks of held-out scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lostgan_serve.contract import INPUT_NAMES, NO_OBJECT, Array
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import to_tensors
from lostgan_train.checkpoint import Checkpoint
from lostgan_train.generator import object_map, resize
from lostgan_train.scenes.compose import Scene, draw_scene

FIRST_HELD_OUT_SEED = 50_000_000
"""Scenes from here on are for evaluation; training sets are drawn from below."""


@dataclass(frozen=True)
class LayoutScores:
    """Means over objects or scenes. object_map_iou: intersection over union of the region that an object owns in the
    object map and its true mask. box_iou: the same for its box, smaller boxes over larger ones. style_distance: mean
    difference of a pixel between two styles of a layout, in levels of 255. l1: between generated and drawn picture."""

    scenes: int
    objects: int
    object_map_iou: float
    box_iou: float
    style_distance: float
    l1: float


def score_layouts(checkpoint: Checkpoint, count: int, progress: Callable[[int], object]) -> LayoutScores:
    """Paint the layouts of `count` held-out scenes in two styles each. Scenes with more objects than the vocabulary
    has slots are passed over."""
    config, vocabulary = checkpoint.generator.config, checkpoint.vocabulary
    manifest = Manifest(
        variant=config.variant,
        resolution=config.resolution,
        slots=vocabulary.slots,
        max_batch=2,
        vocabulary=vocabulary,
        weights=checkpoint.weights,
    )
    ious: list[float] = []
    of_boxes: list[float] = []
    distances: list[float] = []
    differences: list[float] = []
    seed = FIRST_HELD_OUT_SEED
    while len(distances) < count:
        scene = draw_scene(seed, config.resolution)
        seed += 1
        if len(scene.labels) > manifest.capacity:
            continue
        layout = _layout(scene)
        images, owners = _paint(checkpoint, manifest, layout, seed)
        ious += _ious(owners, scene.masks)
        of_boxes += _ious(_owners_by_box(layout, config.resolution), scene.masks)
        distances.append(float(np.abs(images[0] - images[1]).mean()))
        differences.append(float(np.abs(images[0] - scene.image).mean()))
        progress(1)
    means = (float(np.mean(values)) for values in (ious, of_boxes, distances, differences))
    return LayoutScores(count, len(ious), *means)


def _layout(scene: Scene) -> Layout:
    side = scene.image.shape[0]
    objects = []
    for number, (label, mask) in enumerate(zip(scene.labels, scene.masks, strict=True)):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        corner, size = (columns[0], rows[0]), (columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        x, y, width, height = (float(value) / side for value in (*corner, *size))
        objects.append(LayoutObject(label, (x, y, width, height), f"{label}-{number}"))
    return Layout(tuple(objects))


@torch.no_grad()
def _paint(checkpoint: Checkpoint, manifest: Manifest, layout: Layout, seed: int) -> tuple[Array, Array]:
    """Two styles: images [2, R, R, 3] as float levels, and the first one's object map [R, R]."""
    styles = [Layout(layout.objects, seed=2 * seed + k) for k in (0, 1)]
    tensors = to_tensors(styles, manifest)
    output = checkpoint.generator(*(torch.from_numpy(tensors[name]) for name in INPUT_NAMES))
    owners = object_map(resize(output.mask_final, manifest.resolution))[0]
    return ((output.image + 1) * 127.5).permute(0, 2, 3, 1).numpy(), owners.numpy()


def _owners_by_box(layout: Layout, side: int) -> Array:
    owners = np.full((side, side), NO_OBJECT)
    areas = [item.box[2] * item.box[3] for item in layout.objects]
    for slot in np.argsort(areas)[::-1]:
        x, y, width, height = (round(value * side) for value in layout.objects[slot].box)
        owners[y : y + height, x : x + width] = slot
    return owners


def _ious(owners: Array, masks: Array) -> list[float]:
    regions = owners[None] == np.arange(len(masks))[:, None, None]
    both, either = (regions & masks).sum((1, 2)), (regions | masks).sum((1, 2))
    return list(both / either)
