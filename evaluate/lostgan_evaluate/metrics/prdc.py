"""Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020) of features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from lostgan_evaluate.metrics import Metric, always, features_of, score_name, with_each_extractor
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.errors import EvaluationError

PRECISION_NEIGHBOUR, DENSITY_NEIGHBOUR = 3, 5
"""The neighbour up to which a real image's ball reaches, as the authors of each pair of numbers chose it."""

_AT_ONCE = 1000


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Share of generated images in balls around real ones, and of real ones in balls around generated ones: features
    [N, D] and [M, D]. Raises EvaluationError for too few images."""
    _check(generated, real, PRECISION_NEIGHBOUR)
    found = prc_features_to_metric(
        generated, real, prc_neighborhood=PRECISION_NEIGHBOUR, prc_batch_size=_AT_ONCE, save_cpu_ram=True, verbose=False
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def density_coverage(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Density: balls around real images that a generated one lies in, over the neighbours that a ball has. Coverage:
    share of real images with a generated one in their ball. Features [N, D] and [M, D]. Raises EvaluationError for too
    few images."""
    _check(generated, real, DENSITY_NEIGHBOUR)
    inside, covered = 0, 0
    for part in real.split(_AT_ONCE):
        radii = torch.cdist(part, real).kthvalue(DENSITY_NEIGHBOUR + 1, 1).values  # the first is the image itself
        within = torch.cdist(part, generated) < radii[:, None]
        inside += int(within.sum())
        covered += int(within.any(1).sum())
    return inside / (DENSITY_NEIGHBOUR * len(generated)), covered / len(real)


def _check(generated: Tensor, real: Tensor, neighbour: int) -> None:
    if (fewest := min(len(generated), len(real))) <= neighbour:
        raise EvaluationError(f"{fewest} images are too few; take more than {neighbour}")


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    generated, real = (found["features"] for found in features_of(extractor, subject, tools))
    counts = {"images": len(generated), "real_images": len(real)}
    values = {
        PRECISION_NEIGHBOUR: zip(("precision", "recall"), precision_recall(generated, real), strict=True),
        DENSITY_NEIGHBOUR: zip(("density", "coverage"), density_coverage(generated, real), strict=True),
    }
    return [
        Score(score_name(name, extractor), value, "higher", facts={**counts, "neighbour": neighbour})
        for neighbour, pair in values.items()
        for name, value in pair
    ]


METRIC = Metric("prdc", "Precision, recall, density and coverage of features", always, with_each_extractor(_measure))
