"""Metrics of features: equal to torch-fidelity's, and right where implementations go wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from lostgan_evaluate.metrics.frechet import frechet_distance
from lostgan_evaluate.metrics.inception_score import inception_score
from lostgan_evaluate.metrics.kernel import kernel_distance
from lostgan_evaluate.metrics.prdc import density_coverage, precision_recall
from lostgan_serve.errors import EvaluationError

DIMENSIONS = 24


def features(count: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    """Features as networks give them: not negative, correlated, of different spread."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIMENSIONS, DIMENSIONS, generator=torch.Generator().manual_seed(99))
    return (torch.randn(count, DIMENSIONS, generator=generator) @ mixing + shift).relu()


def test_equal_to_torch_fidelity_s() -> None:
    a, b = features(700, 0.3, 1), features(500, 0.0, 2)
    moments = [fid_features_to_statistics(part.double()) for part in (a, b)]
    fid = fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(fid, rel=1e-6)
    kid = kid_features_to_metric(a, b, kid_subsets=100, kid_subset_size=500, rng_seed=3)
    mean, spread = kernel_distance(a, b, seed=3)
    assert mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3)
    assert spread == pytest.approx(kid["kernel_inception_distance_std"], rel=1e-3)
    theirs = prc_features_to_metric(a, b)
    assert precision_recall(a, b) == (theirs["precision"], theirs["recall"])
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(4)) * 3
    score = isc_features_to_metric(logits, splits=5, rng_seed=1)
    assert inception_score(logits, 5, 1) == (score["inception_score_mean"], score["inception_score_std"])


def test_frechet_distance_of_gaussians_that_are_known() -> None:
    """Two sets with equal covariance and means d apart are |d|^2 apart."""
    a = features(400)
    shift = torch.linspace(0, 2, DIMENSIONS)
    assert frechet_distance(a, a + shift) == pytest.approx(float((shift**2).sum()), rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_roots_stay_real_where_covariances_are_nearly_singular() -> None:
    """A feature that repeats another: the product's eigenvalues, taken as they come, would be complex or negative."""
    a, b = (
        torch.cat([part, part * (1 + 1e-7), torch.zeros(len(part), 2)], 1) for part in (features(300), features(280))
    )
    assert np.isfinite(frechet_distance(a, b))
    assert 0 <= frechet_distance(a, a) < 1e-6 * float(a.var(0).sum())
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-5)


def test_the_order_of_images_changes_nothing() -> None:
    a, b = features(400, 0.3, 1), features(400, 0.0, 2)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a[order], b) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert precision_recall(a[order], b) == precision_recall(a, b)
    assert density_coverage(a[order], b) == density_coverage(a, b)


def test_real_against_real_is_near_nothing() -> None:
    a, b = features(1500, 0, 5), features(1500, 0, 6)
    far = features(1500, 4.0, 7)
    assert frechet_distance(a, b) < frechet_distance(a, far) / 20
    mean, spread = kernel_distance(a, b)
    assert spread is not None
    assert abs(mean) < 3 * spread
    assert kernel_distance(a, far)[0] > 20 * abs(mean)


def test_fewer_images_than_features_are_refused() -> None:
    few, many = features(DIMENSIONS), features(200)
    for pair in ((few, many), (many, few)):
        with pytest.raises(EvaluationError, match=f"{DIMENSIONS} images are too few for {DIMENSIONS} features.*kid"):
            frechet_distance(*pair)
    assert np.isfinite(kernel_distance(few, many)[0])
    for measure in (precision_recall, density_coverage, kernel_distance):
        with pytest.raises(EvaluationError, match="too few"):
            measure(features(1), many)
    with pytest.raises(EvaluationError, match="3 images are too few for 5 splits"):
        inception_score(torch.zeros(3, 10), 5)


def test_density_and_coverage_by_the_letter() -> None:
    generated, real, k = features(60, 3.0, 1), features(50, 0.0, 2), 5
    radii = [sorted(float((one - other).norm()) for other in real)[k] for one in real]
    inside = np.array([[float((one - other).norm()) < radius for other in generated]
                       for one, radius in zip(real, radii, strict=True)])  # fmt: skip
    density, coverage = density_coverage(generated, real)
    assert density == pytest.approx(inside.sum() / (k * len(generated)))
    assert coverage == pytest.approx(inside.any(1).mean())
    assert coverage < 1


def test_one_image_many_times_covers_little() -> None:
    """Copies of one real image are precise, and recall nothing."""
    real = features(300)
    copies = real[:1].repeat(300, 1)
    precision, recall = precision_recall(copies, real)
    assert precision == 1
    assert recall == pytest.approx(1 / 300)
    assert density_coverage(copies, real)[1] < 0.2
    assert inception_score(torch.zeros(100, 10), 5)[0] == pytest.approx(1)
