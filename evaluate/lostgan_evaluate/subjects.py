"""Subjects as users name them: a model and data, or folders of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lostgan_evaluate.models import OpenRunner
from lostgan_evaluate.protocols import OWN, Protocol, default_protocol, protocol_named
from lostgan_evaluate.sampling import as_examples, compared, generated, image_files
from lostgan_evaluate.subject import Subject
from lostgan_serve.contract import RESOLUTIONS
from lostgan_serve.errors import DataError, EvaluationError
from lostgan_serve.progress import SILENT, Progress
from lostgan_train.data import Source, open_data
from lostgan_train.data.pixels import size_in_file
from lostgan_train.data.visual_genome import is_visual_genome

_IN_SPLITS = ("coco-stuff", "visual-genome")
"""Data whose folder holds split "train", too."""


@dataclass(frozen=True)
class Choice:
    """Data and protocol as a user names them.

    data: folder of the data. training: folder of the training data; None for split "train" of `data`, if it has one.
    protocol: a name; None for the default of the data and resolution. split, samples: in place of the protocol's.
    count: layouts, the first ones; None for all.
    """

    data: Path | None = None
    training: Path | None = None
    protocol: str | None = None
    split: str | None = None
    samples: int | None = None
    count: int | None = None


def subject_of_model(
    name: str, open_runner: OpenRunner, choice: Choice, out: Path, *, seed: int = 0, progress: Progress = SILENT
) -> Subject:
    """Generate the images of a model for the layouts of data, see `sampling.generated`. The caller closes
    `subject.runner`.

    Raises EvaluationError, InputError, DataError, what the runner raises, and OutputError.
    """
    named = protocol_named(choice.protocol) if choice.protocol else None
    source = evaluated_source(choice, named)
    runner = open_runner(source, named.resolution_px if named else None)
    try:
        protocol = _protocol(choice, named, source, runner.manifest.resolution)
        training = _training(choice, source, protocol)
        subject = generated(name, runner, source, protocol, out, seed=seed, progress=progress)
    except BaseException:
        runner.close()
        raise
    return replace(subject, data=choice.data, training=training, training_data=choice.training or choice.data)


def subject_of_images(images: Path, against: Path | None, choice: Choice, *, progress: Progress = SILENT) -> Subject:
    """A folder of images against the real ones of data, or of another folder, see `sampling.compared`.

    Raises EvaluationError, InputError and DataError.
    """
    named = protocol_named(choice.protocol) if choice.protocol else None
    side_px = _nearest_resolution(image_files(images)[0])
    if against is not None:
        protocol = _protocol(choice, named, None, side_px)
        return compared(images, as_examples(image_files(against)), protocol, progress=progress)
    source = evaluated_source(choice, named)
    protocol = _protocol(choice, named, source, side_px)
    training = _training(choice, source, protocol)
    subject = compared(images, source.examples, protocol, source, progress)
    return replace(subject, data=choice.data, training=training, training_data=choice.training or choice.data)


def evaluated_source(choice: Choice, protocol: Protocol | None = None) -> Source:
    """The layouts to evaluate on. Raises InputError and DataError, as `open_data`."""
    assert choice.data is not None
    if split := choice.split or (protocol and protocol.split):
        source = open_data(choice.data, split=split)
    else:
        source = held_out_split(choice.data)
    return replace(source, examples=source.examples[: choice.count])


def held_out_split(folder: Path) -> Source:
    """Read the split that the paper evaluates on; a set of one's own is all one split. Raises InputError and DataError,
    as `open_data`."""
    if is_visual_genome(folder):
        return open_data(folder, split="test")
    try:
        return open_data(folder, split="val")
    except DataError:
        source = open_data(folder)
        if source.vocabulary.name == "scenes":
            raise  # scenes to train on
        return source


def _protocol(choice: Choice, named: Protocol | None, source: Source | None, side_px: int) -> Protocol:
    """The protocol with the user's changes; without a name the default one of the data and the resolution."""
    protocol = named or default_protocol(source.vocabulary.name if source else OWN, side_px)
    if named and named.data not in (OWN, data := source.vocabulary.name if source else OWN):
        raise EvaluationError(f"--protocol {named.name}: is for {named.data}, and the data are {data}")
    return replace(protocol, split=choice.split or protocol.split, samples=choice.samples or protocol.samples)


def _training(choice: Choice, source: Source, protocol: Protocol) -> Source | None:
    """The training data that are named, or split "train" of the data where they have another.

    Raises EvaluationError for data with other labels.
    """
    if choice.training is not None:
        training = open_data(choice.training)
        if training.vocabulary.labels != source.vocabulary.labels:
            raise EvaluationError(f"--training-data {choice.training}: has other labels than {choice.data}")
        return training
    return _train_split(choice.data) if choice.data and protocol.data in _IN_SPLITS else None


def _train_split(folder: Path) -> Source | None:
    """Split "train" of the data; None where its files are not there."""
    try:
        return open_data(folder)
    except DataError:
        return None


def _nearest_resolution(file: Path) -> int:
    """The resolution of protocols that is nearest to the width of an image."""
    size = size_in_file(file)
    if size is None:
        raise DataError(f"{file}: cannot be decoded; replace or remove it")
    return min(RESOLUTIONS, key=lambda side_px: abs(side_px - size[0]))
