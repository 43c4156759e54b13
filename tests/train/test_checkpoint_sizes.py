"""Hostile checkpoints: numbers in a file allocate nothing, and each refusal is one line that comes quickly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import at_once
from lostgan_serve.errors import CheckpointError, LostganError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import load_checkpoint, random_checkpoint, save_checkpoint

Header = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole"
    save_checkpoint(path, random_checkpoint("v1-64", Vocabulary("x", ("__image__", "sky")), seed=0, ch=1))
    return path.read_bytes()


def with_header(whole: bytes, change: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """A file whose header says otherwise: of its first tensor, and in its metadata."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header: Header = json.loads(whole[8:end])
    name = min(key for key in header if key != "__metadata__")
    header[name] |= change
    header["__metadata__"] |= metadata or {}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[end:]


def many_labels(count: int) -> str:
    return json.dumps({"name": "x", "labels": ["__image__", *["sky"] * count]})


HUGE = 2**40


@pytest.mark.parametrize(
    ("change", "metadata"),
    [
        ({"shape": [HUGE, HUGE]}, {}),
        ({"shape": [2**64]}, {}),
        ({"shape": [-1]}, {}),
        ({"shape": [HUGE], "data_offsets": [0, 4 * HUGE]}, {}),
        ({}, {"config": "[" * 500_000}),
        ({}, {"vocabulary": "[" * 500_000}),
        ({}, {"vocabulary": many_labels(1_000_000)}),
        ({}, {"vocabulary": "[]"}),
        ({}, {"config": json.dumps({"variant": "v1-64", "num_labels": HUGE, "mask_classes": HUGE})}),
        ({}, {"config": json.dumps({"variant": "v1-64", "num_labels": 2, "ch": HUGE})}),
        ({}, {"config": json.dumps({"variant": "v1-64", "num_labels": 2, "mask_classes": 10**12})}),
    ],
)
def test_sizes_in_a_header_allocate_nothing(
    whole: bytes, change: dict[str, Any], metadata: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(with_header(whole, change, metadata))
    with at_once(), pytest.raises(CheckpointError, match=rf"^{path}: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("length", [0, 7, 2**31, 2**63, 2**64 - 1])
def test_the_length_of_a_header_allocates_nothing(whole: bytes, length: int, tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(length.to_bytes(8, "little") + whole[8:])
    with pytest.raises(CheckpointError, match="truncated, or not a safetensors file"):
        load_checkpoint(path)


def test_no_mutation_of_a_checkpoint_is_more_than_refused(whole: bytes, tmp_path: Path) -> None:
    """In its header, where numbers, names and settings stand."""
    end, rng = 8 + int.from_bytes(whole[:8], "little"), random.Random(0)
    path = tmp_path / "mutated"
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            checkpoint = load_checkpoint(path)
        except LostganError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(torch.isfinite(value).all() for value in checkpoint.generator.state_dict().values())
    assert refused > 30
