"""Fréchet distance of features (Heusel et al., 2017): FID with Inception's, and under its own name with any other."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lostgan_evaluate.metrics import Metric, always, features_of, score_name, with_each_extractor
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.contract import Array
from lostgan_serve.errors import EvaluationError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of two Gaussians fitted to features, [N, D] and [M, D], in float64.

    Raises EvaluationError where there are no more images than features: the covariances are singular then, and the
    distance depends on the number of images more than on the images.
    """
    dimensions = a.shape[1]
    if (fewest := min(len(a), len(b))) <= dimensions:
        raise EvaluationError(
            f"{fewest} images are too few for {dimensions} features; take more than {dimensions}, or measure kid"
        )
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    # The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric: its roots are real.
    root = _root(cov_a)
    eigenvalues = np.linalg.eigvalsh(root @ cov_b @ root)
    trace = float(np.sqrt(eigenvalues.clip(0)).sum())
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace
    return max(float(distance), 0.0)  # below by rounding alone


def _moments(features: Tensor) -> tuple[Array, Array]:
    values = features.numpy().astype(np.float64)
    return values.mean(0), np.cov(values, rowvar=False)


def _root(symmetric: Array) -> Array:
    eigenvalues, vectors = np.linalg.eigh(symmetric)
    root: Array = (vectors * np.sqrt(eigenvalues.clip(0))) @ vectors.T
    return root


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    generated, real = (found["features"] for found in features_of(extractor, subject, tools))
    name = score_name("fd", extractor)
    facts = {"images": len(generated), "real_images": len(real), "features": generated.shape[1]}
    return [Score(name, frechet_distance(generated, real), "lower", facts=facts)]


METRIC = Metric(
    "fd", "Fréchet distance to the real images' features (FID with Inception)", always, with_each_extractor(_measure)
)
