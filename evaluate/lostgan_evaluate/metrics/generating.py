"""Images that a metric generates itself, and their distance from the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lostgan_evaluate.metrics import needs_layouts, score_name
from lostgan_evaluate.metrics.frechet import frechet_distance
from lostgan_evaluate.metrics.kernel import kernel_distance
from lostgan_evaluate.sampling import fill, layouts_of
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.layout import Layout
from lostgan_serve.runners import Runner
from lostgan_serve.samples import SampleSet


def needs_runner(subject: Subject, tools: Tools) -> str | None:
    """Why a metric that generates cannot be measured."""
    if reason := needs_layouts(subject, tools):
        return reason
    return None if subject.runner is not None else "it generates further images; give a MODEL"


def first_layouts(subject: Subject, tools: Tools) -> list[Layout]:
    """The layouts of all real images in their first styles, those of `Subject.first_styles`."""
    assert subject.source is not None
    return layouts_of(subject.real, subject.source.vocabulary, subject.protocol, tools.seed)


def generate_into(
    folder: Path, layouts: Sequence[Layout], runner: Runner, tools: Tools, pictures: tuple[str, ...] = ("image",)
) -> list[Path]:
    """Generate the pictures of layouts that a folder is missing. Returns the images' files. Raises as `fill`."""
    fill(layouts, SampleSet(folder, pictures), runner, tools.progress)
    return [folder / f"{layout.name}.png" for layout in layouts]


def distance(extractor: str, generated: Tensor, real: Tensor, seed: int) -> Score:
    """The Fréchet distance of features, [N, D] and [M, D], or the kernel distance where images are too few for it."""
    counts = {"images": len(generated), "real_images": len(real), "features": generated.shape[1]}
    if min(len(generated), len(real)) > generated.shape[1]:
        name = score_name("fd", extractor)
        return Score(name, frechet_distance(generated, real), "lower", facts=counts)
    value, spread = kernel_distance(generated, real, seed)
    return Score(score_name("kid", extractor), value, "lower", spread, facts=counts | {"spread": "over subsets"})
