"""Object maps as label maps: what a GauGAN that was trained on COCO-Stuff takes, and what its own code reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lostgan_serve.contract import Array
from lostgan_serve.vocabulary import Vocabulary

VOCABULARY = "coco-stuff"

LABELS = 183
"""Labels of a label map: COCO's 182, and the unknown one."""

UNKNOWN = 255
"""The unknown label in files, as COCO-Stuff's label maps have it. The network knows it as the last of `LABELS`."""

_FIRST_STUFF = 91  # COCO's ids less one: things stand before, stuff from here on


@dataclass(frozen=True)
class LabelMap:
    """What each pixel shows. labels: [R, R] uint8, COCO's label ids less one, `UNKNOWN` where there is no object.
    instances: [R, R] uint8, numbers that differ where one instance ends and another begins."""

    labels: Array
    instances: Array


def label_map(owners: Array, labels: Sequence[str]) -> LabelMap:
    """The label map of an object map.

    owners: [R, R] uint8, the index in `labels` of the object that owns the pixel, 255 for none. labels: of COCO-Stuff's
    vocabulary. Things are instances each; stuff is one for each label, as in the maps that GauGAN was trained on.
    Raises VocabularyError for an unknown label.
    """
    vocabulary = Vocabulary.built_in(VOCABULARY)
    ids = np.full(256, UNKNOWN, np.uint8)
    ids[: len(labels)] = [vocabulary.id_of(label) - 1 for label in labels]
    shown = ids[owners]
    return LabelMap(shown, np.where(shown < _FIRST_STUFF, owners, shown))


def semantics(pixels: LabelMap, side_px: int, channels: int) -> Tensor:
    """The network's input: [channels, side_px, side_px] float32 of 0 and 1.

    One channel for each label and, with one more than `LABELS`, the edges of instances. Maps are resized to the nearest
    pixel, and edges found then.
    """
    labels = _resized(pixels.labels, side_px).long()
    labels[labels == UNKNOWN] = LABELS - 1
    one_hot = torch.nn.functional.one_hot(labels, LABELS).permute(2, 0, 1)
    edges = instance_edges(_resized(pixels.instances, side_px))
    return torch.cat((one_hot, edges[None]))[:channels].float()


def instance_edges(instances: Tensor) -> Tensor:
    """Pixels that differ from the one above, below, left or right of them: [S, S] -> [S, S] bool."""
    edges = torch.zeros_like(instances, dtype=torch.bool)
    for axis in (0, 1):
        count = instances.shape[axis] - 1
        differs = instances.narrow(axis, 1, count) != instances.narrow(axis, 0, count)
        edges.narrow(axis, 1, count).logical_or_(differs)
        edges.narrow(axis, 0, count).logical_or_(differs)
    return edges


def _resized(ids: Array, side_px: int) -> Tensor:
    picture = Image.fromarray(ids).resize((side_px, side_px), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture))
