"""All that makes a data set of layouts, but for the model: values, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


def bounded(default: float, least: float, most: float, description: str) -> float:
    """A field of a dataclass: a number from `least` to `most`, which the command line takes as NAME=NUMBER."""
    bounds = {"least": least, "most": most, "description": description}
    return field(default=default, metadata=bounds)  # typed as the field, as dataclasses want it


@dataclass(frozen=True)
class Jitter:
    """How far boxes move."""

    shift: float = bounded(0, 0, 1, "most that a box moves in each direction, as a share of its side")
    scale: float = bounded(0, 0, 1, "most that a side grows or shrinks: 0.5 is by a factor of 1.5")
    flip: float = bounded(0, 0, 1, "probability that a layout is mirrored")


@dataclass(frozen=True)
class Variation:
    """How often objects change, by which labels occur together."""

    add: float = bounded(0, 0, 1, "probability that an object is added")
    drop: float = bounded(0, 0, 1, "probability that an object is dropped")
    swap: float = bounded(0, 0, 1, "probability that an object gets another label")


@dataclass(frozen=True)
class Filters:
    """Bounds on layouts (the first two) and on generated images. An object that cannot be seen has agreement and score
    0."""

    min_box: float = bounded(0, 0, 1, "least area of a box, as a share of the image; smaller objects are left out")
    max_overlap: float = bounded(1, 0, 1, "largest intersection over union of two boxes of a layout")
    agreement: float = bounded(0, 0, 1, "least intersection over union of an object's drawn box and that of its mask")
    score: float = bounded(0, 0, 1, "least score of an object by the --scorer")
    duplicates: float = bounded(0, 0, 64, "least distance between images of a shard, in bits of a perceptual hash")


@dataclass(frozen=True)
class Recipe:
    """The choices behind a data set.

    per_layout: images of each layout. balance: least number of objects of each label that there is, reached by more
    images of layouts that have it; 0 for none. attempts: styles in which an image is generated, at most, until the
    filters let it pass. shard_size: images planned for each shard. seed: of all choices and styles.
    """

    per_layout: int = 1
    balance: int = 0
    jitter: Jitter = Jitter()
    variation: Variation = Variation()
    filters: Filters = Filters()
    attempts: int = 4
    shard_size: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Choices:
    """How a plan becomes a data set.

    formats, image, box: of `choices.DATA_FORMATS`, `IMAGE_KINDS` and `BOXES`. scorer: file of a model, see
    `scorer.OnnxScorer`. append: add to what other plans made.
    """

    formats: tuple[str, ...] = ("coco",)
    image: str = "png"
    box: str = "tight"
    scorer: Path | None = None
    append: bool = False
