"""Batches of a data set: the images of each step, loaded by processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lostgan_serve.errors import DataError, TrainingError
from lostgan_train.data.dataset import LayoutDataset
from lostgan_train.signals import leave_signals_alone

Batch = dict[str, Tensor]
"""Items of a `LayoutDataset`, stacked."""

Batches = Generator[Batch, None, None]
"""Batches in their order; to be closed, so that the processes that load them end."""

_SHARED_MEMORY = Path("/dev/shm")
_AHEAD = 2
"""Batches that each process loads ahead."""

LONGEST_WAIT_S = 600
"""Time for a batch that a process makes, after which it counts as lost."""


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers that order an epoch."""
    return torch.Generator().manual_seed(seed * 7_919 + epoch)


@dataclass(frozen=True)
class Sampling:
    """The choice of the images of each step, as a function of `seed` and the step's number.

    size: images in an update, over all processes. updates: in a step, each with images of its own. balance: 0 shows
    all images equally often; up to 1 images are drawn, with replacement, by the power `balance` of the inverse
    frequency of their rarest label. rank, world: this process and how many there are.
    """

    size: int
    seed: int
    updates: int = 1
    balance: float = 0.0
    rank: int = 0
    world: int = 1

    @property
    def images(self) -> int:
        """Images in a step, over all processes."""
        return self.size * self.updates

    def order(self, dataset: LayoutDataset, epoch: int) -> Tensor:
        """The indices of an epoch's images, in their order: [images] int64."""
        rng = epoch_generator(self.seed, epoch)
        if not self.balance:
            return torch.randperm(len(dataset), generator=rng)
        return torch.multinomial(dataset.rarity() ** self.balance, len(dataset), replacement=True, generator=rng)

    def share(self, step: Tensor) -> list[int]:
        """This process's part of each update of a step; step: [images] indices."""
        own: list[int] = step.view(self.updates, self.world, -1)[:, self.rank].flatten().tolist()
        return own


def batches_of(dataset: LayoutDataset, sampling: Sampling, first: int, last: int, workers: int) -> Batches:
    """This process's batches of steps first ... last - 1, epoch by epoch; an epoch's last, incomplete one is left out.

    workers: processes that load images.
    """
    per_epoch = len(dataset) // sampling.images
    while first < last:
        epoch, start = divmod(first, per_epoch)
        dataset.set_epoch(epoch)
        steps = sampling.order(dataset, epoch)[: per_epoch * sampling.images].split(sampling.images)
        rest = [sampling.share(step) for step in steps[start:]][: last - first]
        with closing(load(dataset, rest, workers)) as batches:
            yield from batches
        first += len(rest)


def load(dataset: LayoutDataset, batches: Sequence[Sequence[int]], workers: int) -> Batches:
    """Batches of a dataset's items by their indices, loaded by processes that leave signals to the one that trains.

    They hand batches over in shared memory or, where that is too small, as in a container with 64 MiB of it, through
    pipes. Raises DataError as the dataset does, in one line wherever it was raised, and TrainingError where such a
    process is lost or takes longer than ten minutes for a batch.
    """
    loader = DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_alone,
        batch_sampler=cast(Any, batches),
        collate_fn=_stack if workers and not _fits_shared_memory(dataset, batches, workers) else None,
        prefetch_factor=_AHEAD if workers else None,
        timeout=LONGEST_WAIT_S if workers else 0,
    )
    for batch in _handed_over(loader, str(dataset.source.summary.folder)):
        yield {name: torch.as_tensor(values) for name, values in batch.items()}


def _handed_over(loader: DataLoader[Any], folder: str) -> Iterator[Any]:
    """The batches of a loader, whose errors are one line each, wherever they were raised."""
    try:
        yield from loader
    except Exception as error:
        clear_frames(error.__traceback__)  # they hold the loader, whose processes would keep this one from ending
        text = str(error).strip()
        if isinstance(error, DataError):
            # torch hands on a worker's error with its traceback in the text
            line = text.splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
            raise DataError(line) from None
        if text.startswith("DataLoader "):
            raise TrainingError(
                f"{folder}: a process that loads images was lost ({text.splitlines()[0]}); was there too little "
                "memory? Lower --workers, or --batch"
            ) from None
        raise


def _stack(items: Sequence[dict[str, Tensor]]) -> dict[str, npt.NDArray[Any]]:
    """A batch as arrays, which go through a pipe; tensors would go through shared memory."""
    return {name: np.stack([item[name].numpy() for item in items]) for name in items[0]}


def _fits_shared_memory(dataset: LayoutDataset, batches: Sequence[Sequence[int]], workers: int) -> bool:
    """Whether there is room for all batches that the processes of this machine may have in flight.

    Without it torch dies of a bus error, or waits for ever for a batch that could not be handed over.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's: each of its processes has workers of its own
    in_flight = here * (workers * _AHEAD + 2)
    needed = in_flight * max(map(len, batches), default=0) * dataset.item_bytes
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free >= needed
    except OSError:
        return False
