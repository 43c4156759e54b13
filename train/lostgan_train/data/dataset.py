"""Examples as tensors, exactly the same in every run with the same seed, however many workers load them."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lostgan_serve.encoding import padded
from lostgan_serve.errors import DataError
from lostgan_train.data.pixels import load_pixels
from lostgan_train.data.records import Example, Source

if TYPE_CHECKING:  # it needs pycocotools, which training alone has
    from lostgan_train.data.masks import Owners

_FAILED = 1


class LayoutDataset(Dataset[dict[str, Tensor]]):
    """A source's examples, each as

    image: [3, R, R] float32 in [-1, 1], RGB. labels: [O] int64, 0 for the background and in empty slots. boxes: [O, 4]
    float32, `PAD_BOX` in empty slots. weights: [O] float32 in [0, 1], 0 in empty slots. owners, where they are asked
    for: [S, S] int16, see `masks.Owners`.

    Objects keep their order; a vocabulary with a background has it after the last of them. What an item is depends on
    (seed, epoch, index) and on nothing else. An image that cannot be decoded is replaced by the next that can, with
    one line on stderr; a strict source refuses it.
    """

    def __init__(
        self,
        source: Source,
        resolution: int,
        slots: int | None = None,
        flip: bool = True,
        seed: int = 0,
        owners: Owners | None = None,
    ) -> None:
        """Take the examples of a source. slots: O, the vocabulary's by default. flip: mirror half of the items.
        owners: of their pixels.

        Raises DataError for too few slots.
        """
        self.source, self.resolution, self.flip, self.seed, self.owners = source, resolution, flip, seed, owners
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

    @property
    def item_bytes(self) -> int:
        """The size of an item: its image, labels, boxes and weights of its slots, and owners of its pixels."""
        owners = 0 if self.owners is None else 2 * self.owners.side_px**2
        return 4 * 3 * self.resolution**2 + (8 + 4 * 4 + 4) * self.slots + owners

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose flips differ from any other's; call it between the passes of a loader."""
        self._epoch.fill_(epoch)

    def rarity(self) -> Tensor:
        """The rarity of each image's rarest label: [images] float64, all images over those that have it."""
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
        owners = None if self.owners is None else self.owners.of(example)
        if self.flip and _coin(self.seed, int(self._epoch), index):
            pixels = pixels[:, ::-1]
            boxes[:, 0] = np.maximum(1 - boxes[:, 0] - boxes[:, 2], 0)
            owners = owners if owners is None else owners[:, ::-1].copy()
        labels, slot_boxes = padded(example.labels, boxes, self.slots, background=self.source.vocabulary.background)
        weights = np.zeros(self.slots, np.float32)
        used = len(example.labels) + self.background
        weights[:used] = (*example.weights, *(1.0,) * self.background)
        # in numpy, since torch would start its threads for so small a task
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)
        item = {"image": image, "labels": labels, "boxes": slot_boxes, "weights": weights}
        if owners is not None:
            item["owners"] = owners
        return {name: torch.from_numpy(array) for name, array in item.items()}

    def pixels(self, example: Example) -> npt.NDArray[np.uint8]:
        """The image of an example: [R, R, 3] uint8. Raises DataError for a file that does not decode."""
        return load_pixels(example, self.resolution)

    def _readable(self, index: int) -> tuple[Example, npt.NDArray[np.uint8]]:
        """The example at `index`, or the next one after it that decodes, and its pixels."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            example = self.source.examples[place]
            if self._state[place] != _FAILED:
                try:
                    return example, self.pixels(example)
                except DataError as error:
                    if self.source.summary.strict:
                        raise
                    self._state[place] = _FAILED
                    print(f"warning: {error}: the next one stands in for it", file=sys.stderr, flush=True)
        raise DataError(f"{self.source.summary.folder}: none of its {len(self)} images can be decoded")


def _coin(seed: int, epoch: int, index: int) -> bool:
    """A fair coin for each (seed, epoch, index)."""
    return bool(hashlib.blake2b(f"flip/{seed}/{epoch}/{index}".encode(), digest_size=1).digest()[0] & 1)
