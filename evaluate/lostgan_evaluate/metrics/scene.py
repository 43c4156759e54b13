"""SceneFID (Sylvain et al., 2021): the Fréchet distance of crops of objects, and the kernel distance of the same."""

from __future__ import annotations

from lostgan_evaluate.crops import generated_objects, real_objects
from lostgan_evaluate.metrics import Metric, needs_layouts, score_name, with_each_extractor
from lostgan_evaluate.metrics.frechet import frechet_distance
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    objects = (generated_objects(subject, subject.first_styles()), real_objects(subject.real))
    generated, real = (
        tools.features.features(extractor, [region for region, _ in part], subject.protocol.reading)["features"]
        for part in objects
    )
    name = score_name("scene_fd", extractor)
    facts = {"crops": len(generated), "real_crops": len(real), "features": generated.shape[1]}
    return [Score(name, frechet_distance(generated, real), "lower", facts=facts)]


METRIC = Metric(
    "scene-fd",
    "Fréchet distance of objects' crops (SceneFID with Inception)",
    needs_layouts,
    with_each_extractor(_measure),
)
