"""The images that rows learn from: shares of the real ones, and images generated for the layouts of a share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from lostgan_evaluate.protocols import default_protocol
from lostgan_evaluate.sampling import layouts_of
from lostgan_evaluate.subjects import held_out_split
from lostgan_serve.errors import EvaluationError
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.recipe import Choices, Recipe
from lostgan_train.data import Example, Source, open_data
from lostgan_train.states import key_of

_RARE = 0.25
"""The share of labels that count as rare."""


@dataclass(frozen=True)
class Material:
    """The real images. real: to learn from. held_out: to be tested on, with the same labels."""

    real: Source
    held_out: Source

    @cached_property
    def objects(self) -> dict[int, int]:
        """How many objects of each label id all real images have that may be learnt from, the rarest label first."""
        counts = Counter(label for example in self.real.examples for label in example.labels)
        return dict(sorted(counts.items(), key=lambda item: (item[1], item[0])))

    @cached_property
    def rare(self) -> tuple[int, ...]:
        """The ids of the rarest quarter of labels."""
        return tuple(self.objects)[: max(1, int(_RARE * len(self.objects)))]

    @cached_property
    def keys(self) -> tuple[str, str]:
        """A short name of `real`, and one of `held_out`: of all but their pixels."""
        return _key(self.real), _key(self.held_out)

    def share(self, percent: float, seed: int) -> Source:
        """Some of the real images, which the seed chooses; a smaller share is a part of a larger one."""
        examples = self.real.examples
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = sorted(order[: round(len(examples) * percent / 100)])
        return replace(self.real, examples=tuple(examples[place] for place in chosen))


def open_material(data: Path, held_out: Path | None, count: int | None) -> Material:
    """Read the real images. held_out: None for another split of `data`. count: of the held-out images, at most.

    Raises EvaluationError where the two have other labels or an image in common, InputError and DataError.
    """
    real, test = open_data(data), held_out_split(held_out or data)
    test = replace(test, examples=test.examples[:count])
    if test.vocabulary.labels != real.vocabulary.labels:
        raise EvaluationError(f"--held-out {held_out}: has other labels than {data}; take a set of the same categories")
    known = {example.image.resolve() for example in real.examples}
    if common := sum(example.image.resolve() in known for example in test.examples):
        raise EvaluationError(
            f"--held-out {held_out or data}: {common} of its images are in {data}, too; keep those to test on in a "
            "folder of their own"
        )
    return Material(real, test)


def synthetic(
    share: Source, recipe: Recipe, box: str, folder: Path, runner: Runner, progress: Progress = SILENT
) -> tuple[Example, ...]:
    """Images generated for the layouts of real ones, and read as those are; what is in `folder` is not made again.

    Labels are those of `share`'s vocabulary. Layouts with more objects than the model has slots are passed over. Raises
    EvaluationError where none is left, and what `synthesize` and `open_data` raise.
    """
    fitting = [example for example in share.examples if len(example.labels) <= runner.manifest.capacity]
    if not fitting:
        raise EvaluationError(f"{share.summary.folder}: no layout has at most {runner.manifest.capacity} objects")
    protocol = default_protocol(share.vocabulary.name, runner.manifest.resolution)
    plan = Plan(layouts_of(fitting, share.vocabulary, protocol), recipe, runner.manifest.capacity)
    synthesize(plan, str(folder), runner, Choices(box=box), progress=progress)
    made = open_data(folder)
    ids = {label: number for number, label in enumerate(share.vocabulary.labels)}
    names = made.vocabulary.labels
    return tuple(
        replace(example, labels=tuple(ids[names[label]] for label in example.labels)) for example in made.examples
    )


def _key(source: Source) -> str:
    shown = [(example.image.name, example.labels, example.boxes) for example in source.examples]
    return key_of(source.vocabulary.labels, shown)
