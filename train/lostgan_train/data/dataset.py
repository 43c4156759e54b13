"""Examples as tensors, exactly the same in every run with the same seed, however many workers load them."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lostgan_serve.encoding import padded
from lostgan_serve.errors import DataError
from lostgan_train.data.records import Example, Source
from lostgan_train.signals import leave_signals_alone

_FAILED = 1

Batch = dict[str, Tensor]
"""Items of a `LayoutDataset`, stacked."""


class LayoutDataset(Dataset[dict[str, Tensor]]):
    """A source's examples, each as

    image: [3, R, R] float32 in [-1, 1], RGB. labels: [O] int64, 0 for the background and in empty slots. boxes: [O, 4]
    float32, `PAD_BOX` in empty slots. weights: [O] float32 in [0, 1], 0 in empty slots.

    Objects keep their order; a vocabulary with a background has it after the last of them. What an item is depends on
    (seed, epoch, index) and on nothing else. An image that cannot be decoded is replaced by the next that can, with
    one line on stderr; a strict source refuses it.
    """

    def __init__(
        self, source: Source, resolution: int, slots: int | None = None, flip: bool = True, seed: int = 0
    ) -> None:
        """slots: O, the vocabulary's by default. flip: mirror half of the items. Raises DataError for too few slots."""
        self.source, self.resolution, self.flip, self.seed = source, resolution, flip, seed
        self.background = int(source.vocabulary.background)
        self.slots = source.vocabulary.slots if slots is None else slots
        needed = max((len(example.labels) for example in source.examples), default=0) + self.background
        if needed > self.slots:
            raise DataError(f"{source.summary.folder}: {self.slots} slots are too few, some images need {needed}")
        # In shared memory, since loader workers keep the copy of this object that they started with.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._state = torch.zeros(len(source.examples), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.source.examples)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose flips differ from any other's; call it between the passes of a loader."""
        self._epoch.fill_(epoch)

    def rarity(self) -> Tensor:
        """How rare the rarest label of each image is: [images] float64, all images over those that have it."""
        examples = self.source.examples
        counts = Counter(label for example in examples for label in set(example.labels))
        rarest = [min((counts[label] for label in example.labels), default=len(examples)) for example in examples]
        return len(examples) / torch.tensor(rarest, dtype=torch.float64)

    @property
    def unreadable(self) -> tuple[Path, ...]:
        """The images that failed to decode so far, in this process or in a worker."""
        return tuple(self.source.examples[index].image for index in self._state.nonzero().flatten().tolist())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The item at an index. Raises DataError where none decodes, and in a strict source for each that does not."""
        index = range(len(self))[index]  # counted from the front, also where it is negative
        example, pixels = self._readable(index)
        boxes = np.array(example.boxes, np.float32).reshape(-1, 4)
        if self.flip and _coin(self.seed, int(self._epoch), index):
            pixels = pixels[:, ::-1]
            boxes[:, 0] = np.maximum(1 - boxes[:, 0] - boxes[:, 2], 0)
        labels, slot_boxes = padded(example.labels, boxes, self.slots, background=self.source.vocabulary.background)
        weights = np.zeros(self.slots, np.float32)
        used = len(example.labels) + self.background
        weights[:used] = (*example.weights, *(1.0,) * self.background)
        # in numpy, since torch would start its threads for so small a task
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)
        item = {"image": image, "labels": labels, "boxes": slot_boxes, "weights": weights}
        return {name: torch.from_numpy(array) for name, array in item.items()}

    def _readable(self, index: int) -> tuple[Example, npt.NDArray[np.uint8]]:
        """The example at `index`, or the next one after it that decodes, and its pixels."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            example = self.source.examples[place]
            if self._state[place] != _FAILED:
                try:
                    return example, load_pixels(example, self.resolution)
                except DataError as error:
                    if self.source.summary.strict:
                        raise
                    self._state[place] = _FAILED
                    print(f"warning: {error}: the next one stands in for it", file=sys.stderr, flush=True)
        raise DataError(f"{self.source.summary.folder}: none of its {len(self)} images can be decoded")


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers that order an epoch."""
    return torch.Generator().manual_seed(seed * 7_919 + epoch)


@dataclass(frozen=True)
class Sampling:
    """Which images a step has, as a function of `seed` and the step's number.

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


def batches_of(dataset: LayoutDataset, sampling: Sampling, first: int, last: int, workers: int) -> Iterator[Batch]:
    """This process's batches of steps first ... last - 1, epoch by epoch; an epoch's last, incomplete one is left out.

    workers: processes that load images.
    """
    per_epoch = len(dataset) // sampling.images
    while first < last:
        epoch, start = divmod(first, per_epoch)
        dataset.set_epoch(epoch)
        steps = sampling.order(dataset, epoch)[: per_epoch * sampling.images].split(sampling.images)
        rest = [sampling.share(step) for step in steps[start:]][: last - first]
        yield from load(dataset, rest, workers)
        first += len(rest)


def load(dataset: LayoutDataset, batches: Sequence[Sequence[int]], workers: int) -> Iterator[Batch]:
    """Batches of a dataset's items by their indices, loaded by processes that leave signals to the one that trains.

    Raises DataError as the dataset does, in one line wherever it was raised.
    """
    pinned = torch.cuda.is_available()
    loader = DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=leave_signals_alone,
        batch_sampler=cast(Any, batches),
    )
    try:
        yield from loader
    except Exception as error:
        clear_frames(error.__traceback__)  # they hold the loader, whose processes would keep this one from ending
        if not isinstance(error, DataError):
            raise
        # torch hands on a worker's error with its traceback in the text
        line = str(error).strip().splitlines()[-1]
        raise DataError(line.removeprefix(f"{DataError.__module__}.DataError: ")) from None


def _coin(seed: int, epoch: int, index: int) -> bool:
    """A fair coin for each (seed, epoch, index)."""
    return bool(hashlib.blake2b(f"flip/{seed}/{epoch}/{index}".encode(), digest_size=1).digest()[0] & 1)


def load_pixels(example: Example, resolution: int) -> npt.NDArray[np.uint8]:
    """[R, R, 3] uint8 RGB: the whole image, stretched to a square by bilinear filtering with antialiasing.

    Raises DataError for a file that does not decode.
    """
    try:
        with Image.open(example.image) as file:
            image = _to_rgb(_upright(file, example.size_px))
        size = (resolution, resolution)
        return np.array(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))
    except Exception as error:  # decoders of broken files raise whatever comes: OSError, SyntaxError, struct.error ...
        raise DataError(f"{example.image}: cannot be decoded ({_reason(error)}); replace or remove it") from None


def _upright(image: Image.Image, size_px: tuple[int, int] | None) -> Image.Image:
    """Turned as its EXIF tag asks, unless the annotations' size shows that they were drawn on the image as stored."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    return image if size_px == image.size != turned.size else turned


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of gray, which `convert` would clip and not scale
        return Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "not an image" if "cannot identify image file" in text else text
