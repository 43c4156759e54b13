"""Tensors that a model in this process refuses."""

from __future__ import annotations

from pathlib import Path

from lostgan_serve.contract import Tensors, fault
from lostgan_serve.errors import RequestError
from lostgan_serve.manifest import Manifest


def check_tensors(path: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Raise RequestError unless a batch is one that a model can generate. path: of the model, for messages."""
    if reason := fault(tensors, manifest.slots, len(manifest.vocabulary)):
        raise RequestError(f"{path}: it cannot generate these layouts ({reason})")
