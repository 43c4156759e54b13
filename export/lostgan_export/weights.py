"""Weights for a model: those of a checkpoint, a bundled one, or random ones."""

from __future__ import annotations

from pathlib import Path

from lostgan_serve.errors import CheckpointError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.bundled import bundled_checkpoint
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, random_checkpoint

DEFAULT_VARIANTS = {64: "v1-64", 128: "v2-128", 256: "v2-256", 512: "v2-512"}
"""The variant that stands for each resolution where no checkpoint says which."""


def stored_weights(path: Path | None, resolution: int | None) -> Checkpoint:
    """Load a checkpoint; without a path the bundled one of `resolution` px. Raises CheckpointError, also where the
    checkpoint is of another resolution, and InputError where it may not be read."""
    if path is None and resolution is None:
        raise CheckpointError("no weights are named; give --res for a bundled model, or --checkpoint FILE")
    path = path or bundled_checkpoint(resolution or 0)
    checkpoint = load_checkpoint(path)
    config = checkpoint.generator.config
    if resolution not in (None, config.resolution):
        raise CheckpointError(
            f"{path}: {config.variant} generates {config.resolution} px, not {resolution}; leave --res out, or give "
            f"--res {config.resolution}"
        )
    return checkpoint


def random_weights(resolution: int, vocabulary: str, seed: int) -> Checkpoint:
    """Make an untrained generator of the variant that stands for `resolution` px, with a built-in vocabulary."""
    return random_checkpoint(DEFAULT_VARIANTS[resolution], Vocabulary.built_in(vocabulary), seed)
