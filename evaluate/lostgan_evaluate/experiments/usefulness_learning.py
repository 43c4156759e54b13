"""The two learners of a row, and their scores on held-out images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lostgan_evaluate.crops import read_crops, real_objects
from lostgan_evaluate.experiments.usefulness_data import Material
from lostgan_evaluate.experiments.usefulness_rows import Budget
from lostgan_evaluate.images import Reading
from lostgan_evaluate.scores import Score
from lostgan_serve.progress import Progress
from lostgan_train import distributed
from lostgan_train.classifier import Confusion, Crops, Lesson, recognise, train_classifier
from lostgan_train.data import LayoutDataset, Source
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.semi_supervised.detector import Detector, DetectorPlan, batches_for, loop_of
from lostgan_train.semi_supervised.pseudo_labels import average_precision, detect
from lostgan_train.semi_supervised.stages import LEAST_SCORE

ARCHITECTURE = "mobilenet"


@dataclass(frozen=True)
class Learners:
    """A detector and a classifier that learn anew from the images of each row.

    material: whose held-out images they are tested on. reading: how images are read that crops are cut from. workers:
    processes that load images.
    """

    material: Material
    budget: Budget
    reading: Reading
    workers: int
    progress: Progress

    def scores(self, training: Source, folder: Path, seed: int) -> list[Score]:
        """Teach both from the same images. folder: of their states, from which an interrupted call goes on.

        Raises KeyboardInterrupt where a signal stopped it, DivergedError, DataError and OutputError.
        """
        return [*self._detector(training, folder / "detector", seed), *self._classifier(training, folder, seed)]

    def _detector(self, training: Source, folder: Path, seed: int) -> list[Score]:
        """Average precision in percent: over all labels, over the rare ones, and over all at an IoU of 0.5."""
        budget, test, processes = self.budget, self.material.held_out, distributed.start()
        plan = DetectorPlan(ARCHITECTURE, budget.steps, budget.batch, seed, self.workers)
        detector = Detector(plan, len(test.vocabulary), processes, self.progress)
        loop = loop_of(detector, plan, folder, {}, processes, self.progress)
        loop.resume()
        images = _stretched(training, flip=True, seed=seed)
        if loop.done < plan.steps and not loop.run(batches_for(plan, images, processes)):
            raise KeyboardInterrupt
        pictures = _stretched(test, flip=False)
        found = detect(detector.network, pictures, LEAST_SCORE, plan.batch, self.workers, processes, self.progress)
        if found is None:
            raise KeyboardInterrupt
        precision = average_precision(list(found.values()), [test.examples[index] for index in found])
        by_label = {label: 100 * value for label, value in precision.by_label.items()}
        scores = [self._score("ap", 100 * precision.ap, by_label), self._score("ap50", 100 * precision.ap50)]
        if rare := [by_label[label] for label in self.material.rare if label in by_label]:
            scores.append(self._score("ap_rare", statistics.fmean(rare)))
        return scores

    def _classifier(self, training: Source, folder: Path, seed: int) -> list[Score]:
        """The share of objects that are recognised, in percent: of all, and of those with rare labels."""
        objects = real_objects(training.examples)
        lesson = Lesson("classifier", len(objects), lambda: read_crops(objects, self.reading, self.progress))
        network = train_classifier(
            lesson,
            training.vocabulary,
            folder,
            distributed.start(),
            self.progress,
            self.budget.classifier_steps,
            seed,
        )
        if network is None:
            raise KeyboardInterrupt
        crops, labels = self._test_crops
        counts = Confusion.of(labels, recognise(network, crops), training.vocabulary).counts
        right, seen = counts.diagonal(), counts.sum(1)
        by_label = {label: 100 * float(right[label] / seen[label]) for label in seen.nonzero().flatten().tolist()}
        scores = [self._score("accuracy", 100 * float(right.sum() / seen.sum()), by_label)]
        rare = list(self.material.rare)
        if seen[rare].any():
            scores.append(self._score("accuracy_rare", 100 * float(right[rare].sum() / seen[rare].sum())))
        return scores

    @cached_property
    def _test_crops(self) -> Crops:
        return read_crops(real_objects(self.material.held_out.examples), self.reading, self.progress)

    def _score(self, name: str, value: float, by_label: Mapping[int, float] | None = None) -> Score:
        names = self.material.real.vocabulary.labels
        return Score(name, value, "higher", by_label={names[label]: part for label, part in (by_label or {}).items()})


def _stretched(source: Source, *, flip: bool, seed: int = 0) -> LayoutDataset:
    """Images as the detector sees them, with slots for all of their objects."""
    most = max(len(example.labels) for example in source.examples) + source.vocabulary.background
    return LayoutDataset(source, detectors.SIDE_PX, slots=most, flip=flip, seed=seed)
