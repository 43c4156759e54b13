"""Settings of a run: every field states its default, bounds, help and group once, for commands, files and checks.

This module imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lostgan_serve.choices import VARIANTS
from lostgan_serve.errors import TrainingError
from lostgan_serve.files import parse_json

COMPONENTS = ("layout-to-mask", "mask-refinement", "image-head", "object-head")

NONE, LITE = "none", "efficientnet-lite0"
"""Perceptual losses besides that of a file of VGG19's weights."""

DATA, MODEL, PACE, LOSSES, OUTPUT, STAGES = (
    "Data",
    "Networks",
    "Updates",
    "Losses",
    "State and samples",
    "Detector and pseudo-labels",
)
"""The groups that `--help` shows settings in."""

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Schedule:
    """A value that may change during a run: linear between points, constant before the first and after the last.

    points: (step, value), by ascending step. Its text is "5", or "5@2000,1@4000" for 5 up to step 2000 and 1 from 4000.
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read the text form. Raises ValueError."""
        points = []
        for part in str(text).split(","):
            value, _, step = part.partition("@")
            points.append((int(step or 0), float(value)))
        steps = [step for step, _ in points]
        if min(steps) < 0 or steps != sorted(set(steps)) or not all(0 <= value < float("inf") for _, value in points):
            raise ValueError(f"{text!r}: values of 0 or more at ascending steps, such as 5@2000,1@4000")
        return cls(tuple(points))

    def at(self, step: int) -> float:
        """The value at a step."""
        before = [point for point in self.points if point[0] <= step][-1:] or [self.points[0]]
        after = [point for point in self.points if point[0] > step][:1] or [self.points[-1]]
        (start, first), (end, last) = before[0], after[0]
        return first if end <= start or step <= start else first + (last - first) * (step - start) / (end - start)

    @property
    def ever(self) -> bool:
        """Whether it is anything but 0 at some step."""
        return any(value > 0 for _, value in self.points)

    def __str__(self) -> str:
        if len(self.points) == 1:
            return f"{self.points[0][1]:g}"
        return ",".join(f"{value:g}@{step}" for step, value in self.points)


def setting(
    help: str,
    group: str,
    default: Any = MISSING,
    *,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    metavar: str | None = None,
    fixed: bool = False,
    kind: Callable[[Any], Any] = str,
) -> Any:
    """Make a field of a `Settings` class.

    help: one line that can be understood alone. least, above, most: bounds of a number. fixed: whether a resumed run
    must keep it. kind: of which type the values are, or a function that makes them of a text.
    """
    about = {name: value for name, value in locals().items() if name != "default"}
    return field(metadata=about) if default is MISSING else field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A base of settings. command: the command that they are of. Raises TrainingError naming the first field that is
    out of its bounds."""

    command: ClassVar[str]

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), item.metadata)

    def to_json(self) -> dict[str, Any]:
        """Every field as a JSON value."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: str(value) if isinstance(value, Path | Schedule) else value for name, value in values.items()}


def option_name(name: str) -> str:
    """The option of a field, such as --learning-rate."""
    return "--" + name.replace("_", "-")


def bounds(about: Mapping[str, Any]) -> str:
    """The bounds of a field in words."""
    words = {"least": "at least", "above": "more than", "most": "at most"}
    return " and ".join(f"{word} {about[key]}" for key, word in words.items() if about[key] is not None)


def build(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from JSON values or values of their types; None stands for the default, and paths become absolute.

    Raises TrainingError for an unknown field, a wrong type, an impossible value or a missing field.
    """
    given = typed(kind, values)
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in given]
    if missing:
        raise TrainingError(f"give {' and '.join(map(option_name, missing))}, here or in the file of --config")
    return kind(**given)


def typed(kind: type[Settings], values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """JSON values as the types of their fields, without those that are None.

    where: the place to name in errors, such as "run.json: ". Raises TrainingError.
    """
    known = {item.name: item.metadata for item in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise TrainingError(f"{where}unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    given = {}
    for name, value in values.items():
        if value is not None:
            given[name] = _typed(value, known[name], f"{where}{option_name(name)}")
            _check(name, given[name], known[name], where)
    return given


def _check(name: str, value: Any, about: Mapping[str, Any], where: str = "") -> None:
    """Raise TrainingError for a value that is none of the choices, or out of bounds."""
    values = value if isinstance(value, tuple) else (value,)
    if about["choices"] and not set(values) - {None} <= set(about["choices"]):
        raise TrainingError(
            f"{where}{option_name(name)} {', '.join(map(str, values))}: one of {', '.join(about['choices'])}"
        )
    low, above, most = about["least"], about["above"], about["most"]
    if isinstance(value, int | float) and not (
        (low is None or value >= low) and (above is None or value > above) and (most is None or value <= most)
    ):
        raise TrainingError(f"{where}{option_name(name)} {value}: {bounds(about)}")


def _typed(value: Any, about: Mapping[str, Any], where: str) -> Any:
    """A JSON value as the type of its field. Raises TrainingError."""
    kind = about["kind"]
    try:
        if kind is Schedule:
            return value if isinstance(value, Schedule) else Schedule.parse(value)
        if kind is tuple:
            return tuple(map(str, [value] if isinstance(value, str) else value))
        if kind in (int, bool) and (not isinstance(value, int) or isinstance(value, bool) is not (kind is bool)):
            raise ValueError(f"{value!r} is no {'flag' if kind is bool else 'whole number'}")
        if kind is float and (isinstance(value, bool) or not math.isfinite(float(value))):
            raise ValueError(f"{value!r} is no finite number")
        return kind(value).absolute() if kind is Path else kind(value)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{where}: {error}") from None


def read_config(kind: type[Settings], path: Path) -> dict[str, Any]:
    """The settings in a JSON file: an object of the same fields as the options, with - or _. Raises TrainingError."""
    try:
        values = parse_json(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as JSON ({error}); it holds settings by name") from None
    if not isinstance(values, dict):
        raise TrainingError(f'{path}: must be an object, such as {{"variant": "v2-128", "ch": 16}}')
    return typed(kind, {str(name).replace("-", "_"): value for name, value in values.items()}, f"{path}: ")


def perceptual_network(text: str) -> str:
    """The setting of a perceptual loss, where a file's path is absolute as those of other settings are."""
    return text if text in (NONE, LITE) else str(Path(text).absolute())


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """A run of `train`. The defaults are the paper's (section 2.2.7), but for `steps`."""

    command = "train"

    variant: str = setting("Network to train.", MODEL, choices=VARIANTS, fixed=True)
    data: Path = setting("Folder of the data set.", DATA, metavar="FOLDER", kind=Path)
    images: Path | None = setting(
        "Folder of the images, where they are not inside the data folder.", DATA, None, metavar="FOLDER", kind=Path
    )
    splits: Path | None = setting(
        "Visual Genome: JSON file of the image ids in each split.  [default: vg_splits.json in the data folder]",
        DATA, None, metavar="FILE", kind=Path,
    )  # fmt: skip
    stuff_only: bool = setting(
        "COCO-Stuff: leave out images without any stuff annotation, as the paper does.", DATA, True, kind=bool
    )
    strict: bool = setting("Refuse data with problems; otherwise what has them is left out.", DATA, False, kind=bool)
    balance: float = setting(
        "Show images with rare labels more often: 0 not at all, 1 by the inverse of their rarest label's frequency.",
        DATA, 0.0, least=0, most=1, kind=float,
    )  # fmt: skip
    workers: int = setting("Processes that load images, for each training process.", DATA, 2, least=0, kind=int)
    ch: int = setting("Width of the generator.", MODEL, 64, least=1, fixed=True, kind=int)
    discriminator_ch: int | None = setting(
        "Width of the discriminator.  [default: that of the generator]", MODEL, None, least=1, fixed=True, kind=int
    )
    norm: str = setting(
        "Normalization: the paper's ISLA-Norm, or SPADE (section 2.2.3).", MODEL, "isla",
        choices=("isla", "spade"), fixed=True,
    )  # fmt: skip
    without: tuple[str, ...] = setting(
        "Switch a component off (table 7); may be given several times.", MODEL, (),
        choices=COMPONENTS, fixed=True, kind=tuple,
    )  # fmt: skip
    max_pool_masks: bool = setting(
        "Give coarse maps the maximum of masks over their pixels; the paper samples masks, and misses small objects.",
        MODEL, False, fixed=True, kind=bool,
    )  # fmt: skip
    label_context: bool = setting(
        "Let the labels at hand change the map that the generator starts from: a moon makes night. Not in the paper.",
        MODEL, False, fixed=True, kind=bool,
    )  # fmt: skip
    noise: bool = setting(
        "Add noise to the maps of each block, by the image's style, in shares that it learns. Not in the paper.",
        MODEL, False, fixed=True, kind=bool,
    )  # fmt: skip
    init: Path | None = setting(
        "Generator's checkpoint to start from: one of a lower resolution is grown, others give the layers that fit.",
        MODEL, None,
        metavar="FILE", fixed=True, kind=Path,
    )  # fmt: skip
    init_discriminator: Path | None = setting(
        "Discriminator's checkpoint to start from, also of another resolution or width.", MODEL, None,
        metavar="FILE", fixed=True, kind=Path,
    )  # fmt: skip
    steps: int = setting("Updates of the generator.", PACE, 100_000, least=1, kind=int)
    batch: int = setting("Images in an update, over all processes.", PACE, 128, least=1, fixed=True, kind=int)
    learning_rate: float = setting("Adam's learning rate of the generator.", PACE, 1e-4, above=0, kind=float)
    discriminator_learning_rate: float | None = setting(
        "Adam's learning rate of the discriminator.  [default: that of the generator]", PACE, None, above=0, kind=float
    )
    discriminator_updates: int = setting(
        "Updates of the discriminator for each one of the generator, on images of their own.", PACE, 1,
        least=1, most=15, fixed=True, kind=int,
    )  # fmt: skip
    decay_steps: int = setting(
        "Steps at the end of the run in which both learning rates fall linearly to 0.", PACE, 0, least=0, kind=int
    )
    ema_decay: float = setting(
        "Decay of the averaged generator, which is the one that is released.", PACE, 0.999, least=0, most=1, kind=float
    )
    precision: str = setting(
        "Type of convolutions and matrix products.", PACE, "fp32", choices=("fp32", "bf16", "fp16")
    )
    accumulate: int = setting(
        "Parts that each process computes its images in, to save memory.", PACE, 1, least=1, kind=int
    )
    seed: int = setting(
        "Seed of all that is random in the run.", PACE, 0, least=0, most=2**31 - 1, fixed=True, kind=int
    )
    perceptual: str = setting(
        "Perceptual loss: a file of VGG19 weights (vgg19-dcbb9e9d.pth), efficientnet-lite0, or none.", LOSSES,
        metavar="FILE|efficientnet-lite0|none", kind=perceptual_network,
    )  # fmt: skip
    image_weight: Schedule = setting(
        "Weight of the adversarial loss on images (lambda).", LOSSES, Schedule(((0, 0.1),)),
        metavar="WEIGHT", kind=Schedule,
    )  # fmt: skip
    object_weight: Schedule = setting(
        "Weight of the adversarial loss on objects.", LOSSES, Schedule(((0, 1.0),)), metavar="WEIGHT", kind=Schedule
    )
    l1_weight: Schedule = setting(
        "Weight of the L1 loss; 5@2000,1@4000 is 5 up to step 2000, then falls to 1 at step 4000.", LOSSES,
        Schedule(((0, 1.0),)), metavar="WEIGHT", kind=Schedule,
    )  # fmt: skip
    perceptual_weight: Schedule = setting(
        "Weight of the perceptual loss.", LOSSES, Schedule(((0, 1.0),)), metavar="WEIGHT", kind=Schedule
    )
    texture_weight: Schedule = setting(
        "Weight of the loss on textures, in the perceptual loss's features: how they vary in a window. Not in the "
        "paper.",
        LOSSES, Schedule(((0, 0.0),)), metavar="WEIGHT", kind=Schedule,
    )  # fmt: skip
    diversity_weight: Schedule = setting(
        "Weight of a loss on styles of a layout that look alike; not in the paper.", LOSSES, Schedule(((0, 0.0),)),
        metavar="WEIGHT", kind=Schedule,
    )  # fmt: skip
    mask_weight: Schedule = setting(
        "Weight of a loss on masks, for data that have true ones; the paper's learn from images alone.", LOSSES,
        Schedule(((0, 0.0),)), metavar="WEIGHT", kind=Schedule,
    )  # fmt: skip
    checkpoint_every: int = setting("Steps between saved states.", OUTPUT, 1000, least=1, kind=int)
    keep: int = setting("Newest states to keep.", OUTPUT, 2, least=1, kind=int)
    sample_every: int = setting("Steps between sample sheets.", OUTPUT, 500, least=1, kind=int)


@dataclass(frozen=True, kw_only=True)
class SemiSettings(TrainSettings):
    """A run of `semi` (section 2.2.6): a detector's training, its pseudo-labels, then the LostGAN's training."""

    command = "semi"

    detections: str = setting(
        "Images without annotations: leave them out, take detected objects as if annotated, or weigh them by their "
        "probability (table 5, i to iii).", STAGES, "weighted",
        choices=("leave-out", "as-annotated", "weighted"), fixed=True,
    )  # fmt: skip
    annotated: float = setting(
        "Share of the images whose annotations are used.", STAGES, 0.5, above=0, most=0.999999, fixed=True, kind=float
    )
    unlabelled: Path | None = setting(
        "Folder of images without annotations, to use beside all annotated ones.", STAGES, None,
        metavar="FOLDER", fixed=True, kind=Path,
    )  # fmt: skip
    threshold: float = setting(
        "Least probability of a detected object (tau of equation 15).", STAGES, 0.5,
        least=0, most=1, fixed=True, kind=float,
    )  # fmt: skip
    detector: str = setting(
        "Backbone of the Faster R-CNN; the paper's is resnet50, mobilenet is several times as fast.", STAGES,
        "mobilenet", choices=("mobilenet", "resnet50"), fixed=True,
    )  # fmt: skip
    detector_weights: Path | None = setting(
        "torchvision weights for the detector to start from: a Faster R-CNN's or its backbone's.", STAGES, None,
        metavar="FILE", fixed=True, kind=Path,
    )  # fmt: skip
    detector_steps: int = setting("Updates of the detector.", STAGES, 20_000, least=1, fixed=True, kind=int)
    detector_batch: int = setting(
        "Images in an update of the detector, over all processes.", STAGES, 8, least=1, fixed=True, kind=int
    )
    detector_folder: Path | None = setting(
        "Folder of the detector and its detections; name another run's to use them again.  [default: OUT/detector]",
        STAGES, None, metavar="FOLDER", fixed=True, kind=Path,
    )  # fmt: skip
