"""Files of weights as a user brings them, with random tensors and a table in which their checksums stand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from lostgan_evaluate.weights import KNOWN, WeightFile, WeightFiles


def weight_files(folder: Path, name: str, state: object) -> WeightFiles:
    """A folder with one file, and the table of all."""
    torch.save(state, folder / KNOWN[name].file)
    return recorded(folder, name)


def recorded(folder: Path, name: str) -> WeightFiles:
    """The table of all, in which one has the checksum of the file that is there."""
    path = folder / KNOWN[name].file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WeightFiles(folder, {**KNOWN, name: WeightFile(path.name, digest, "a test", "tests")})
