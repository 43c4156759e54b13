"""SceneFID (Sylvain et al., 2021): the Fréchet distance of crops of objects, and the kernel distance of the same."""

from __future__ import annotations

from collections.abc import Sequence

from lostgan_evaluate.images import Region
from lostgan_evaluate.metrics import INCEPTION, Metric, needs_layouts, score_name, with_each_extractor
from lostgan_evaluate.metrics.frechet import frechet_distance
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_train.data import Example


def object_regions(example: Example, file: Region) -> list[Region]:
    """The boxes of a layout's objects in an image."""
    return [Region(file.file, file.size_px, box) for box in example.boxes]


def _crops(pairs: Sequence[tuple[Example, Region]]) -> list[Region]:
    return [region for example, file in pairs for region in object_regions(example, file)]


def _measure(extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    pairs = [(subject.example(sample), Region(sample.file)) for sample in subject.first_styles()]
    reals = [(example, Region(example.image, example.size_px)) for example in subject.real]
    generated, real = (
        tools.features.features(extractor, _crops(part), subject.protocol.reading)["features"]
        for part in (pairs, reals)
    )
    name = "scene_fid" if extractor == INCEPTION else score_name("scene_fd", extractor)
    facts = {"crops": len(generated), "real_crops": len(real), "features": generated.shape[1]}
    return [Score(name, frechet_distance(generated, real), "lower", facts=facts)]


METRIC = Metric(
    "scene-fd",
    "Fréchet distance of objects' crops (SceneFID with Inception)",
    needs_layouts,
    with_each_extractor(_measure),
)
