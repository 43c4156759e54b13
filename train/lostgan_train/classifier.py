"""Recognition of crops: a network that learns the labels of objects from pixels alone, a small one by default.

A crop is the object's box, shrunk to CROP_PX x CROP_PX pixels. The network is told neither where the box lies nor how
large it is, so a picture that shows nothing earns nothing. Objects of every size count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Batch, Batches, epoch_generator
from lostgan_train.distributed import Processes
from lostgan_train.loop import Loop, Rhythm, Stateful, update

CROP_PX = 32
EPOCHS = 6

Crops = tuple[Tensor, Tensor]
"""Crops, [N, 3, CROP_PX, CROP_PX] uint8, and the ids of their labels, [N] int64."""

_WIDTH = 16
_SAVE_EVERY = 500
_CROPS_AT_ONCE = 512


@dataclass(frozen=True)
class Lesson:
    """Crops to learn from, made when they are needed.

    key: a name that no other lesson has, of letters and digits. count: how many crops are expected. make: makes them;
    None where SIGTERM or SIGINT stopped it.
    """

    key: str
    count: int
    make: Callable[[], Crops | None]


@dataclass(frozen=True)
class Recipe:
    """How a network learns labels from crops.

    network: makes an untrained one for so many labels: [N, 3, CROP_PX, CROP_PX] in [-1, 1] -> scores [N, labels].
    optimizer: takes its parameters. rate: the learning rate rises to this over the first share `warm_up` of the steps,
    then falls as a half cosine. batch: crops in a step. smoothing: of labels. augment: changes a batch of scaled crops,
    at random. bf16: whether convolutions and matrix products are of that type.
    """

    network: Callable[[int], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    rate: float
    warm_up: float
    batch: int
    smoothing: float = 0.0
    augment: Callable[[Tensor], Tensor] = lambda crops: crops
    bf16: bool = False


def crop(images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Cut the boxes out of each picture.

    images: [B, R, R, 3] uint8. boxes: for each, [N, 4] float32: x, y, width, height in [0, 1]. Returns
    [all N, 3, CROP_PX, CROP_PX] uint8.
    """
    side = images.shape[1]
    corners = [torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1) * side for box in boxes]
    # roi_align takes the mean over a pixel's area when it shrinks: large boxes are not aliased
    cut = cast(Tensor, roi_align(images.permute(0, 3, 1, 2).float(), corners, CROP_PX, aligned=True))
    return cut.round().clamp(0, 255).to(torch.uint8)


class Classifier:
    """A network that learns labels from crops, for a `Loop`; crops: [N, 3, CROP_PX, CROP_PX] uint8.

    labels: how many ids there are. steps: all of the training, over which the rate rises and falls.
    """

    def __init__(self, recipe: Recipe, labels: int, steps: int, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = recipe.network(labels).to(device)
        self.recipe, self.steps, self.device = recipe, steps, device
        self.optimizer = recipe.optimizer(self.network.parameters())

    @property
    def state(self) -> Mapping[str, Stateful]:
        """The parts that a step changes, by name."""
        return {"network": self.network, "optimizer": self.optimizer}

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """Make one update. Raises NotFiniteError."""
        recipe = self.recipe
        warm_up = max(1, round(recipe.warm_up * self.steps))
        for group in self.optimizer.param_groups:
            share = (1 + math.cos(math.pi * number / self.steps)) / 2
            group["lr"] = recipe.rate * min(1, (number + 1) / warm_up) * share
        crops = recipe.augment(_scaled(batch["crops"].to(self.device)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            scores = self.network(crops)
        loss = F.cross_entropy(scores.float(), batch["labels"].to(self.device), label_smoothing=recipe.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        value = float(loss.detach())
        update(self.network, self.optimizer, value, Processes())
        return {"cross entropy": value}


def train_classifier(
    lesson: Lesson,
    vocabulary: Vocabulary,
    folder: Path,
    processes: Processes,
    progress: Progress = SILENT,
    steps: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> nn.Module | None:
    """Learn labels from crops; a function of them, `steps`, `seed` and `recipe`.

    steps: by default those of `EPOCHS` epochs. recipe: by default that of the small network. folder: keeps the state of
    each lesson in a subfolder; one that is finished is not learnt again. Returns a network in evaluation mode,
    [N, 3, CROP_PX, CROP_PX] in [-1, 1] -> scores [N, labels], or None where SIGTERM or SIGINT stopped it.
    """
    recipe = recipe or SMALL
    steps = steps or steps_of(EPOCHS, lesson.count, recipe)
    classifier = Classifier(recipe, len(vocabulary), steps, seed, processes.device)
    loop = Loop(
        "learning labels", classifier, folder / lesson.key, Rhythm(steps, _SAVE_EVERY),
        processes=processes, seed=seed, images=recipe.batch, about={}, hint="take another --seed", progress=progress,
    )  # fmt: skip
    loop.resume()
    if loop.done == steps:
        return classifier.network.eval()
    crops = lesson.make()
    if crops is None or not loop.run(lambda first: _batches(crops, recipe.batch, first, steps, seed)):
        return None
    return classifier.network.eval()


def steps_of(epochs: int, crops: int, recipe: Recipe) -> int:
    """The steps of so many epochs of so many crops."""
    return epochs * -(-crops // recipe.batch)


def _batches(made: Crops, size: int, first: int, last: int, seed: int) -> Batches:
    crops, labels = made
    for number in range(first, last):
        epoch, part = divmod(number, -(-len(crops) // size))
        order = torch.randperm(len(crops), generator=epoch_generator(seed, epoch))
        chosen = order[part * size : (part + 1) * size]
        yield {"crops": crops[chosen], "labels": labels[chosen]}


def _small(labels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, _WIDTH), (_WIDTH, 2 * _WIDTH), (2 * _WIDTH, 4 * _WIDTH)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    side = CROP_PX // 8
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * _WIDTH * side * side, labels))


SMALL = Recipe(
    _small,
    lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.01),
    rate=3e-3,
    warm_up=0.3,
    batch=64,
    smoothing=0.05,
)
"""A network of three convolutions that learns in a minute or so on one CPU core."""


def _scaled(crops: Tensor) -> Tensor:
    return crops.float() / 127.5 - 1


@torch.no_grad()
def probabilities(network: nn.Module, crops: Tensor) -> Tensor:
    """The probability of each label for crops, as of `crop`: [N, labels] float32."""
    device = next(network.parameters()).device
    scores = [cast(Tensor, network(_scaled(part.to(device)))) for part in crops.split(_CROPS_AT_ONCE)]
    return torch.cat(scores).float().softmax(1).cpu()


def recognise(network: nn.Module, crops: Tensor) -> Tensor:
    """The ids of the labels that crops, as of `crop`, seem to show: [N] int64."""
    return probabilities(network, crops).argmax(1)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix. counts: [L, L] int64, how many objects of label id `row` were taken for label id `column`."""

    counts: Tensor
    vocabulary: Vocabulary

    @classmethod
    def of(cls, labels: Tensor, guesses: Tensor, vocabulary: Vocabulary) -> Confusion:
        """Count pairs of ids, [N] int64 each."""
        classes = len(vocabulary)
        counts = torch.bincount(labels * classes + guesses, minlength=classes**2).view(classes, classes)
        return cls(counts, vocabulary)

    @property
    def accuracy(self) -> float:
        """The share of all objects that were recognised."""
        return float(self.counts.trace() / self.counts.sum())

    @property
    def mean_recall(self) -> float:
        """The mean of `recalls`, in which a rare label counts as much as a frequent one."""
        return statistics.fmean(self.recalls.values())

    @property
    def recalls(self) -> dict[str, float]:
        """The share that was recognised of each label that occurs, the worst first."""
        names, seen = self.vocabulary.labels, self.counts.sum(1)
        shares = {names[k]: float(self.counts[k, k] / seen[k]) for k in seen.nonzero().flatten().tolist()}
        return dict(sorted(shares.items(), key=lambda item: item[1]))
