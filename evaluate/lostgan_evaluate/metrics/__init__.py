"""One file for each metric. A metric is a name, its needs, and a function of a subject and tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Subject, Tools, whole
from lostgan_serve.errors import EvaluationError


@dataclass(frozen=True)
class Metric:
    """A metric.

    name: as in `--metrics`. title: one line for people. why_not: one clause that says what is missing; None where it
    can be measured. measure: raises LostganError; for long work it tells `tools.progress`.
    """

    name: str
    title: str
    why_not: Callable[[Subject, Tools], str | None]
    measure: Callable[[Subject, Tools], Measured]


def needs_layouts(subject: Subject, _tools: Tools) -> str | None:
    """Why a metric of objects cannot be measured."""
    known = any(sample.place is not None for sample in subject.samples)
    return None if subject.source is not None and known else "layouts of the images are not known; give --data"


def needs_styles(subject: Subject, _tools: Tools) -> str | None:
    """Why a metric of styles cannot be measured."""
    return None if subject.styles() else "there is one image of each layout; it takes several styles"


def needs_training(subject: Subject, tools: Tools) -> str | None:
    """Why a metric that learns from training images cannot be measured."""
    if reason := needs_layouts(subject, tools):
        return reason
    return None if subject.training is not None else "there are no training images; give --training-data"


INCEPTION = "inception"
"""The extractor whose scores have the names of the literature: FID, KID, Inception Score."""


_LITERATURE = {"fd": "fid", "scene_fd": "scene_fid"}
"""Metrics that have another name in the literature than here. Of the others it is the same."""


def score_name(metric: str, extractor: str) -> str:
    """The name of a score: with Inception the literature's, and with any other network with that network's name."""
    if extractor == INCEPTION:
        return _LITERATURE.get(metric, metric)
    return f"{metric}_{extractor.replace('-', '_')}"


def with_each_extractor(
    measure: Callable[[str, Subject, Tools], Sequence[Score]],
) -> Callable[[Subject, Tools], Measured]:
    """A metric's function of features, from one that takes an extractor's name first.

    One that cannot be measured with some extractors is measured with the others. It raises EvaluationError where none
    is left.
    """

    def measured(subject: Subject, tools: Tools) -> Measured:
        scores: list[Score] = []
        errors: list[EvaluationError] = []
        for name in tools.extractors:
            try:
                scores += measure(name, subject, tools)
            except EvaluationError as error:
                errors.append(error)
        if not scores:
            raise errors[0]
        for missing in errors:
            tools.progress.note(f"note: left out: {missing}")
        return Measured(tuple(scores))

    return measured


def features_of(name: str, subject: Subject, tools: Tools) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of all generated and of all real images, as of `FeatureStore.features`."""
    generated, real = (
        tools.features.features(name, whole(images), subject.protocol.reading)
        for images in (subject.samples, subject.real)
    )
    return generated, real


def always(_subject: Subject, _tools: Tools) -> str | None:
    """For a metric that needs images alone."""
    return None
