"""Kernel distance of features (Bińkowski et al., 2018): KID with Inception's, and under its own name with any other."""

from __future__ import annotations

from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from lostgan_evaluate.metrics import Metric, always, features_of, score_name, with_each_extractor
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.errors import EvaluationError

SUBSETS, SUBSET = 100, 1000
"""Random subsets of which the distance is the mean, and images in each, or all of them if there are fewer."""


def kernel_distance(a: Tensor, b: Tensor, seed: int = 0) -> tuple[float, float | None]:
    """Squared maximum mean discrepancy of features, [N, D] and [M, D], with the cubic kernel: mean and standard
    deviation over subsets, which is None where each subset is all of both. It is unbiased, and so may be below 0.
    Raises EvaluationError for under two images."""
    size = min(SUBSET, len(a), len(b))
    if size < 2:
        raise EvaluationError(f"{size} images are too few; take two at least")
    found = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    varies = size < max(len(a), len(b))
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD] if varies else None


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    generated, real = (found["features"] for found in features_of(extractor, subject, tools))
    value, spread = kernel_distance(generated, real, tools.seed)
    facts = {
        "images": len(generated), "real_images": len(real), "subsets": SUBSETS,
        "subset": min(SUBSET, len(generated), len(real)), "spread": "over subsets",
    }  # fmt: skip
    return [Score(score_name("kid", extractor), value, "lower", spread, facts=facts)]


METRIC = Metric(
    "kid", "Kernel distance to the real images' features (KID with Inception)", always, with_each_extractor(_measure)
)
