"""Where the tensors of the contract are computed. Every runner is one method: run(tensors) -> tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lostgan_serve.contract import Array, Tensors
from lostgan_serve.manifest import Manifest


class Runner(Protocol):
    """Something that draws batches of layouts.

    manifest: the model behind it. concurrency: how many `run` calls at a time are worth making, each from a thread
    of its own.
    """

    manifest: Manifest
    concurrency: int

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """Compute one batch.

        tensors: the inputs of the contract, up to `manifest.max_batch` layouts. outputs: the names of the contract's
        outputs that are wanted; no others are computed for the caller or sent. Raises ModelError or ServerError.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory; no `run` after that."""
        ...
