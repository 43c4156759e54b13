"""All metrics, in the order in which they are measured and reported."""

from __future__ import annotations

import importlib

from lostgan_evaluate.metrics import Metric
from lostgan_serve.errors import EvaluationError

_MODULES = {
    "is": "inception_score",
    "fd": "frechet",
    "kid": "kernel",
    "prdc": "prdc",
    "ds": "diversity",
    "scene-fd": "scene",
    "recognition": "recognition",
    "cas": "cas",
    "detection": "detection",
    "look": "look",
    "object-maps": "object_maps",
    "nearest-masks": "nearest_masks",
    "neighbours": "neighbours",
    "mask-stages": "mask_stages",
    "robustness": "robustness",
    "reconfiguration": "reconfiguration",
}
"""The metrics' names and the modules that hold them, imported on use."""

NAMES = tuple(_MODULES)


def metric(name: str) -> Metric:
    """The metric of a name. Raises EvaluationError naming those there are."""
    if name not in _MODULES:
        raise EvaluationError(f"--metrics: there is no {name!r}; choose from all, {', '.join(NAMES)}")
    found: Metric = importlib.import_module(f"lostgan_evaluate.metrics.{_MODULES[name]}").METRIC
    return found
