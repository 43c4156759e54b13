"""Tensors that a model in this process takes, and those that it gives."""

from __future__ import annotations

from pathlib import Path

from lostgan_serve.contract import Array, Tensors, fault, output_specs
from lostgan_serve.errors import ModelError, RequestError
from lostgan_serve.manifest import Manifest


def check_tensors(path: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Raise RequestError unless a batch is one that a model can generate. path: of the model, for messages."""
    if reason := fault(tensors, manifest.slots, len(manifest.vocabulary)):
        raise RequestError(f"{path}: it cannot generate these layouts ({reason})")


def checked_outputs(path: Path, manifest: Manifest, arrays: dict[str, Array], batch: int) -> dict[str, Array]:
    """The outputs of a model, if they keep the contract. Raises ModelError where they do not."""
    for spec in output_specs(manifest.slots, manifest.resolution):
        found = arrays.get(spec.name)
        if found is not None and (found.dtype != spec.dtype or found.shape != (batch, *spec.dims)):
            raise ModelError(f"{path}: its {spec.name} is {found.dtype} {found.shape}; export it again")
    return arrays
