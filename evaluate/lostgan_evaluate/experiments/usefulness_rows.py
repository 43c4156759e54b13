"""Whether generated images help, as rows: the images that each learns from, and all that rows share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.choices import BOXES
from lostgan_serve.synthesize.recipe import Jitter, Recipe, Variation

MOVED, UNCHANGED = Jitter(shift=0.1, scale=0.2, flip=0.5), Variation()
"""The changes of layouts unless others are asked for: boxes move a little, objects stay as they are."""


@dataclass(frozen=True)
class Arm:
    """The images that one row learns from.

    share: of the real images, in percent; generated images have the layouts of these. times: generated images for each
    of them. real: whether the row sees the real images themselves. box: of generated objects, see `choices.BOXES`.
    """

    share: float
    times: int = 0
    real: bool = True
    box: str = "drawn"

    @property
    def series(self) -> str:
        """Its name among the rows of its share."""
        if not self.real:
            return f"generated alone, {self.box} boxes"
        return f"{self.times}x generated added" if self.times else "real alone"

    @property
    def key(self) -> str:
        """Its name in files."""
        if not self.real:
            return f"{self.share:g}-generated-{self.box}"
        return f"{self.share:g}-{self.times}x" if self.times else f"{self.share:g}-alone"


Job = tuple[Arm, int]
"""A row and its seed."""


@dataclass(frozen=True)
class Budget:
    """The training of every row. steps, batch: updates of the detector, and images in each. classifier_steps: updates
    of the classifier."""

    steps: int = 300
    batch: int = 8
    classifier_steps: int = 600


@dataclass(frozen=True)
class Study:
    """All that the experiment depends on besides the model.

    data, held_out: folders of real images, to learn from and to be tested on; None for another split of `data`. out:
    folder of the results. shares: of the real images, in percent. times: generated images for each real one. seeds:
    trainings of each row; a seed chooses the share, too. count: held-out images, the first ones; None for all. jitter,
    variation: changes of the layouts that images are generated for. workers: processes that load images.
    """

    data: Path
    held_out: Path | None
    out: Path
    shares: tuple[float, ...] = (1, 5, 10, 25)
    times: tuple[int, ...] = (1, 4)
    seeds: int = 3
    budget: Budget = Budget()
    count: int | None = None
    jitter: Jitter = MOVED
    variation: Variation = UNCHANGED
    workers: int = 0

    def arms(self) -> list[Arm]:
        """The rows: real images alone and with generated ones added, by share; in the end, for the largest share,
        generated images alone, with either kind of box."""
        arms = [Arm(share, times) for share in self.shares for times in (0, *self.times)]
        return arms + [Arm(max(self.shares), max(self.times), real=False, box=box) for box in BOXES]

    def jobs(self) -> list[Job]:
        """All rows with the first seed, then with the next, so that comparisons come early."""
        return [(arm, seed) for seed in range(self.seeds) for arm in self.arms()]

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The plan of a row's generated images."""
        return Recipe(per_layout=arm.times, jitter=self.jitter, variation=self.variation, seed=seed)
