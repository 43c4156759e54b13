"""Inception Score (Salimans et al., 2016) of class scores: IS with Inception's, and under its own name with others."""

from __future__ import annotations

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from lostgan_evaluate.metrics import Metric, always, features_of, score_name, with_each_extractor
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.errors import EvaluationError


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits. logits: class scores [N, classes]. Raises EvaluationError for fewer
    images than splits."""
    if len(logits) < splits:
        raise EvaluationError(f"{len(logits)} images are too few for {splits} splits; take {splits} at least")
    found = isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=seed)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    found = features_of(extractor, subject, tools)
    if "logits" not in found[0]:
        raise EvaluationError(f"{extractor} has no classes")
    splits = subject.protocol.score_splits
    (value, spread), (real, _) = (inception_score(part["logits"], splits, tools.seed) for part in found)
    counts = {"images": len(found[0]["logits"]), "real_images": len(found[1]["logits"])}
    facts = {**counts, "splits": splits, "spread": "over splits"}
    return [Score(score_name("is", extractor), value, "higher", spread, real, facts=facts)]


METRIC = Metric("is", "Inception Score of a network's classes", always, with_each_extractor(_measure))
