"""One file for each metric. A metric is a name, its needs, and a function of a subject and tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lostgan_evaluate.scores import Measured
from lostgan_evaluate.subject import Subject, Tools


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
