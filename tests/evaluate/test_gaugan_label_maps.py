"""Label maps for GauGAN, against what its own code would read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lostgan_evaluate.gaugan.label_maps import LABELS, UNKNOWN, LabelMap, instance_edges, label_map, semantics
from lostgan_evaluate.gaugan.network import WITH_EDGES
from lostgan_serve.contract import NO_OBJECT, Array
from lostgan_serve.errors import VocabularyError


def test_labels_are_cocos_ids_less_one() -> None:
    labels = ["person", "toothbrush", "banner", "sky", "wood"]
    owners = np.array([[0, 1, 2], [3, 4, NO_OBJECT]], np.uint8)
    assert label_map(owners, labels).labels.tolist() == [[0, 89, 91], [156, 181, UNKNOWN]]
    with pytest.raises(VocabularyError, match="windmill"):
        label_map(owners, ["windmill"])


def test_things_are_instances_each_and_stuff_is_not() -> None:
    labels = ["person", "person", "grass", "grass", "sand"]
    owners = np.array([[0, 1, 2, 3, 4, NO_OBJECT]], np.uint8)
    instances = label_map(owners, labels).instances[0].tolist()
    changes = [a != b for a, b in pairwise(instances)]
    assert changes == [True, True, False, True, True]


def test_edges_are_pixels_with_a_neighbour_of_another_instance() -> None:
    rng = np.random.default_rng(0)
    instances = rng.integers(0, 3, (9, 9)).astype(np.uint8)
    instances[3:8, 3:8] = 1
    padded = np.pad(instances, 1, mode="edge")
    shifts = [(0, 1), (2, 1), (1, 0), (1, 2)]
    expected = np.any([padded[y : y + 9, x : x + 9] != instances for y, x in shifts], axis=0)
    edges = instance_edges(torch.from_numpy(instances))
    assert np.array_equal(edges.numpy(), expected)
    assert not edges[5, 5]


def as_spade_reads(ids: Array, side_px: int) -> Tensor:
    """A grey picture as GauGAN's code reads it: resized to the nearest pixel, divided by 255 and multiplied again."""
    small = Image.fromarray(ids).resize((side_px, side_px), Image.Resampling.NEAREST)
    return (torch.from_numpy(np.array(small)).float() / 255 * 255.0).long()


@pytest.mark.parametrize("side_px", [8, 16, 32])
def test_semantics_are_one_hot_labels_and_edges(side_px: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 90, 156, 181, UNKNOWN], (16, 16)).astype(np.uint8)
    instances = rng.integers(0, 4, (16, 16)).astype(np.uint8)
    maps = semantics(LabelMap(labels, instances), side_px, WITH_EDGES)
    read = as_spade_reads(labels, side_px)
    read[read == 255] = 182
    expected = torch.zeros(WITH_EDGES, side_px, side_px).scatter_(0, read[None], 1.0)
    expected[183] = instance_edges(as_spade_reads(instances, side_px))
    assert torch.equal(maps, expected)
    assert torch.equal(semantics(LabelMap(labels, instances), side_px, LABELS), expected[:183])
