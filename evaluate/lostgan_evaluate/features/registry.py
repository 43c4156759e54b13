"""The extractors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lostgan_evaluate.features import Extractor
from lostgan_evaluate.features.alexnet import AlexNetExtractor
from lostgan_evaluate.features.inception import InceptionExtractor
from lostgan_evaluate.features.lite import LiteExtractor
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.errors import EvaluationError

_OPEN: Mapping[str, Callable[[WeightFiles], Extractor]] = {
    "efficientnet-lite0": lambda _: LiteExtractor(),
    "inception": InceptionExtractor,
    "alexnet": AlexNetExtractor,
}

FOR_DISTANCES = ("efficientnet-lite0", "inception")
"""Extractors that scores of images are measured with; the first needs no weights that are not at hand."""


def open_extractor(name: str, weights: WeightFiles) -> Extractor:
    """Load a network. Raises EvaluationError for another name or weights that cannot be used, CheckpointError and
    MissingExtraError."""
    if name not in _OPEN:
        raise EvaluationError(f"--features: there is no {name!r}; choose from {', '.join(FOR_DISTANCES)}")
    return _OPEN[name](weights)


def default_extractors(weights: WeightFiles) -> tuple[str, ...]:
    """The extractors for distances whose weights are there. A damaged file counts, so that opening it tells of it."""
    return tuple(name for name in FOR_DISTANCES if name not in weights.known or weights.has(name))
