"""Figures that show in minutes whether training goes wrong: a grid on grass, skies of one colour, labels not seen.

The same figures of the real pictures stand beside them. Shapes: N pictures, R side in px, K regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lostgan_serve.contract import Array
from lostgan_serve.errors import VocabularyError
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.classifier import Confusion, Crops, Lesson, crop, recognise, train_classifier
from lostgan_train.data import LayoutDataset
from lostgan_train.distributed import Processes
from lostgan_train.networks.generator import Generator, to_pixels
from lostgan_train.sheets import style_codes
from lostgan_train.signals import stop_on_signals
from lostgan_train.states import key_of

GRASS, SKY = "grass", "sky"

WINDOW_PX, STRIDE_PX = 32, 8
"""Windows of grass whose spectra are added up, and the steps between them."""

PERIODS_PX = (8 / 3, 8.0)
"""A transposed convolution's grid has periods from 2.7 to 8 px."""

DARK = 80.0
"""Mean luminance of a night's sky is below this level of 255. Drawn nights have 41 to 49, other skies over 130."""

_LUMINANCE = (0.299, 0.587, 0.114)
_PICTURES, _CLASSIFIER_PICTURES, _BATCH = 128, 1500, 16
_RAREST = 5


@dataclass(frozen=True)
class Look:
    """Figures of pictures alone. grid: the share of the grass's spectral power that lies on the axes, at periods of
    `PERIODS_PX`. dark_sky: the share of skies that are dark. sky_spread: standard deviation of the sky's mean colour
    over pictures, mean of RGB, in levels of 255. NaN where nothing could be measured."""

    grid: float
    dark_sky: float
    sky_spread: float


class LookMeter:
    """Measures a `Look` over batches of pictures."""

    def __init__(self) -> None:
        self._power: Array = np.zeros((WINDOW_PX, WINDOW_PX))
        self._skies: list[Array] = []

    def add(self, images: Array, grass: Array, sky: Array) -> None:
        """Add pictures, [N, R, R, 3] uint8, and the regions of grass and sky in them, [N, R, R] bool each."""
        for image, lawn, heaven in zip(images, grass, sky, strict=True):
            self._power += spectrum(image, lawn)
            if heaven.any():
                self._skies.append(image[heaven].mean(0))

    def look(self) -> Look:
        """The figures of all pictures added."""
        skies = np.array(self._skies).reshape(-1, 3)
        if not len(skies):
            return Look(axes_share(self._power), math.nan, math.nan)
        dark = (skies @ np.array(_LUMINANCE) < DARK).mean()
        return Look(axes_share(self._power), float(dark), float(skies.std(0).mean()))


@dataclass(frozen=True)
class Figures:
    """Figures of pictures and of the layouts that they show. look: of the pictures alone. recognised: mean recall over
    labels, by a classifier of crops. recognised_rarest: the same over the five rarest labels. styles: mean difference
    of two pictures of a layout, in levels of 255; NaN for real ones, of which there is one."""

    look: Look
    recognised: float
    recognised_rarest: float
    styles: float = math.nan

    def measured(self) -> dict[str, float]:
        """The figures by name, without those that could not be measured."""
        own = {"recognised": self.recognised, "recognised_rarest": self.recognised_rarest, "styles": self.styles}
        return {name: value for name, value in (vars(self.look) | own).items() if not math.isnan(value)}

    def beside(self, real: Figures) -> str:
        """One line for people: the figures, and in brackets those of the real pictures, where there are any."""
        own, theirs = self.measured(), real.measured()
        return ", ".join(
            f"{words} {own[name]:{form}}" + (f" ({theirs[name]:{form}})" if name in theirs else "")
            for name, words, form in (
                ("grid", "grid", ".3f"),
                ("dark_sky", "dark skies", ".1%"),
                ("sky_spread", "spread of sky colours", ".0f"),
                ("recognised", "recognised", ".1%"),
                ("recognised_rarest", "of the rarest labels", ".1%"),
                ("styles", "two styles differ by", ".1f"),
            )
            if name in own
        )


class Diagnostics:
    """Figures of a generator's pictures of a data set's first layouts.

    dataset: its items are shown as they are, none mirrored. folder: keeps the classifier, which first learns from crops
    of the data set's pictures; a run that is resumed finds it again. `ready` is False where SIGTERM or SIGINT stopped
    that.
    """

    def __init__(
        self, dataset: LayoutDataset, folder: Path, seed: int, processes: Processes, progress: Progress = SILENT
    ) -> None:
        self.vocabulary = dataset.source.vocabulary
        # where there are enough, the classifier learns from other pictures than those that it judges
        first = _PICTURES if len(dataset) >= 2 * _PICTURES else 0
        lesson = _lesson(dataset, range(first, min(first + _CLASSIFIER_PICTURES, len(dataset))), seed, progress)
        classifier = train_classifier(lesson, self.vocabulary, folder, processes.alone(), progress, seed=seed)
        self.ready = classifier is not None
        if classifier is None:
            return
        self.classifier = classifier
        self.items = [dataset[index] for index in range(min(_PICTURES, len(dataset)))]
        self.boxes = [_used(item) for item in self.items]
        self.owners = np.stack([owners_by_box(boxes, dataset.resolution) for boxes, _ in self.boxes])
        self.rarest = self._rarest(dataset)
        self.real = self._figures(to_pixels(torch.stack([item["image"] for item in self.items])))

    @torch.no_grad()
    def __call__(self, generator: Generator) -> Figures:
        """The figures of a generator in evaluation mode."""
        pictures = self._generated(generator, 0)
        others = self._generated(generator, len(self.items))
        styles = float((pictures.int() - others.int()).abs().double().mean())
        return replace(self._figures(pictures), styles=styles)

    def _generated(self, generator: Generator, first_seed: int) -> Tensor:
        """A picture of each layout, [N, R, R, 3] uint8."""
        device = next(generator.parameters()).device
        pictures = []
        for start in range(0, len(self.items), _BATCH):
            items = self.items[start : start + _BATCH]
            codes = [style_codes(first_seed + start + k, len(item["labels"])) for k, item in enumerate(items)]
            inputs = [torch.stack([item[name] for item in items]) for name in ("labels", "boxes")]
            inputs += [torch.stack(each) for each in zip(*codes, strict=True)]
            pictures.append(to_pixels(generator(*(tensor.to(device) for tensor in inputs)).image.float()).cpu())
        return torch.cat(pictures)

    def _figures(self, images: Tensor) -> Figures:
        """The figures of pictures, [N, R, R, 3] uint8."""
        labels = torch.cat([labels for _, labels in self.boxes])
        guesses = recognise(self.classifier, crop(images, [boxes for boxes, _ in self.boxes]))
        recalls = Confusion.of(labels, guesses, self.vocabulary).recalls
        meter = LookMeter()
        meter.add(images.numpy(), self._regions(GRASS), self._regions(SKY))
        mean = float(np.mean(list(recalls.values())))
        return Figures(meter.look(), mean, float(np.mean([recalls[label] for label in self.rarest])))

    def _rarest(self, dataset: LayoutDataset) -> list[str]:
        """The labels that the data set has least often, among those that the pictures show."""
        shown = {self.vocabulary.labels[label] for _, labels in self.boxes for label in labels.tolist()}
        counts = dataset.source.summary.labels
        return sorted(shown, key=lambda label: (counts[label], label))[:_RAREST]

    def _regions(self, label: str) -> Array:
        """The regions that a label owns in the layouts: [N, R, R] bool."""
        pairs = zip(self.owners, self.boxes, strict=True)
        return np.stack([region_of(label, owners, labels.tolist(), self.vocabulary) for owners, (_, labels) in pairs])


def spectrum(image: Array, region: Array) -> Array:
    """The spectral power of an image's luminance, summed over the windows that lie in a region: [W, W].

    image: [R, R, 3] uint8; region: [R, R] bool. Each window's plane of best fit is taken off first, so that light and
    shade do not count.
    """
    size = (WINDOW_PX, WINDOW_PX)
    luminance = image.astype(np.float64) @ np.array(_LUMINANCE)
    if min(luminance.shape) < WINDOW_PX:
        return np.zeros(size)
    views = np.lib.stride_tricks.sliding_window_view(luminance, size)[::STRIDE_PX, ::STRIDE_PX]
    inside = np.lib.stride_tricks.sliding_window_view(region, size)[::STRIDE_PX, ::STRIDE_PX].all((2, 3))
    y, x = np.mgrid[:WINDOW_PX, :WINDOW_PX].reshape(2, -1)
    plane = np.stack([y, x, np.ones_like(x)], 1).astype(np.float64)
    windows = views[inside].reshape(-1, WINDOW_PX**2)
    windows = windows - windows @ plane @ np.linalg.pinv(plane)
    power: Array = (np.abs(np.fft.fft2(windows.reshape(-1, *size))) ** 2).sum(0)
    return power


def axes_share(power: Array) -> float:
    """The share of spectral power, [W, W], on the two axes at periods of `PERIODS_PX`; NaN where there is none."""
    rest = power.copy()
    rest[0, 0] = 0
    if not rest.any():
        return math.nan
    frequencies = np.abs(np.fft.fftfreq(WINDOW_PX))
    on_axis = (frequencies >= 1 / PERIODS_PX[1]) & (frequencies <= 1 / PERIODS_PX[0] + 1e-9)
    return float((rest[0, on_axis].sum() + rest[on_axis, 0].sum()) / rest.sum())


def owners_by_box(boxes: Tensor, side: int) -> Array:
    """The object that owns each pixel where only boxes are known: the smallest one there, -1 for none.

    boxes: [N, 4] as shares of the side. Returns [side, side] int64.
    """
    owners = np.full((side, side), -1)
    for slot in (boxes[:, 2] * boxes[:, 3]).argsort(descending=True).tolist():
        x, y, width, height = (round(value * side) for value in boxes[slot].tolist())
        owners[y : y + height, x : x + width] = slot
    return owners


def region_of(label: str, owners: Array, labels: Sequence[int], vocabulary: Vocabulary) -> Array:
    """The pixels that belong to objects of a label: [R, R] bool. owners: [R, R], see `owners_by_box`. labels: ids, one
    for each object. No pixel where the vocabulary lacks the label."""
    try:
        wanted = vocabulary.id_of(label)
    except VocabularyError:
        return np.zeros(owners.shape, bool)
    region: Array = np.isin(owners, [slot for slot, own in enumerate(labels) if own == wanted])
    return region


def _used(item: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] and labels [N] of an item's objects, a background left out."""
    used = item["labels"] != 0
    return item["boxes"][used], item["labels"][used]


def _lesson(dataset: LayoutDataset, indices: Sequence[int], seed: int, progress: Progress) -> Lesson:
    """Crops of a data set's pictures; others of labels, layouts, files, sizes or seeds are another lesson."""
    examples = [dataset.source.examples[index] for index in indices]
    shown = [(example.image.name, example.labels, example.boxes) for example in examples]
    key = key_of(dataset.source.vocabulary.labels, dataset.resolution, seed, shown)
    return Lesson(key, sum(len(example.labels) for example in examples), lambda: _crops(dataset, indices, progress))


def _crops(dataset: LayoutDataset, indices: Sequence[int], progress: Progress) -> Crops | None:
    """The crops of all objects of these pictures, None where SIGTERM or SIGINT stopped it."""
    crops, labels = [], []
    stop: list[bool] = []
    told = progress.count("cutting crops", len(indices))
    with stop_on_signals(lambda: stop.append(True)), told as advance:
        for done, index in enumerate(indices, 1):
            item = dataset[index]
            boxes, own = _used(item)
            crops.append(crop(to_pixels(item["image"][None]), [boxes]))
            labels.append(own)
            advance(done, "")
            if stop:
                return None
    return torch.cat(crops), torch.cat(labels)
