"""The things that metrics look at: generated images, the layouts and real images that they are of, and the tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.images import Region
from lostgan_evaluate.protocols import Protocol
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.progress import Progress
from lostgan_serve.runners import Runner
from lostgan_train.data import Example, Source


@dataclass(frozen=True)
class Sample:
    """One generated image.

    file: the image. place: index of its layout and real image in `Subject.real`; None where its layout is not known.
    style: counts the styles of a layout from 0. objects: the picture of its object map, see `render.object_picture`,
    where there is one.
    """

    file: Path
    place: int | None = None
    style: int = 0
    objects: Path | None = None


@dataclass(frozen=True)
class Subject:
    """All that is compared.

    name: for people. samples: generated images; those of a layout stand side by side, in the order of the layouts.
    real: images of the split that is evaluated; each has a layout where `source` is known. source: that split, with its
    vocabulary, and `data` its folder; None for a comparison of two folders of images. training: the split that networks
    are trained on and nearest neighbours are looked for in, and `training_data` its folder. runner: generates further
    samples; None for a folder of images from elsewhere.
    """

    name: str
    samples: tuple[Sample, ...]
    real: tuple[Example, ...]
    protocol: Protocol
    source: Source | None = None
    data: Path | None = None
    training: Source | None = None
    training_data: Path | None = None
    runner: Runner | None = None

    def example(self, sample: Sample) -> Example:
        """The layout and real image of a sample that has one."""
        assert sample.place is not None
        return self.real[sample.place]

    def first_styles(self) -> list[Sample]:
        """One sample of each layout: its first style."""
        return [sample for sample in self.samples if sample.style == 0]

    def styles(self) -> list[list[Sample]]:
        """The samples of each layout that has at least two."""
        with_layout = [sample for sample in self.samples if sample.place is not None]
        groups = [list(group) for _, group in groupby(with_layout, key=lambda sample: sample.place)]
        return [group for group in groups if len(group) > 1]


@dataclass(frozen=True)
class Tools:
    """What metrics work with.

    out: folder of the results, for sheets. networks: folder of the networks that metrics train. Each has a name of all
    that it depends on, so that several results may share it. extractors: names of those that distances and scores are
    measured with. seed: of all that is random.
    """

    out: Path
    networks: Path
    features: FeatureStore
    weights: WeightFiles
    extractors: tuple[str, ...]
    progress: Progress
    seed: int = 0


def whole(files: Sequence[Sample | Example]) -> list[Region]:
    """The whole images of samples or examples."""
    return [Region(item.file) if isinstance(item, Sample) else Region(item.image, item.size_px) for item in files]
