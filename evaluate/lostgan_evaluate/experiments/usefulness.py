"""Whether generated images help: the rows of the experiment, each trained and measured once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lostgan_evaluate.experiments.usefulness_data import Material, open_material, synthetic
from lostgan_evaluate.experiments.usefulness_learning import ARCHITECTURE, Learners
from lostgan_evaluate.experiments.usefulness_rows import Job, Study
from lostgan_evaluate.experiments.usefulness_table import write_usefulness
from lostgan_evaluate.images import Reading
from lostgan_evaluate.sampling import check_labels
from lostgan_serve.errors import EvaluationError
from lostgan_serve.files import parse_json, reading, writable, write_file
from lostgan_serve.manifest import Manifest
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.shards import model_name
from lostgan_train.data import Example
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.states import key_of


def run(study: Study, runner: Runner, progress: Progress = SILENT) -> Path:
    """Train and measure what has no result yet, and tabulate after each row.

    Returns usefulness.json in `study.out`, beside which stand usefulness.md and usefulness.png. Raises
    KeyboardInterrupt where a signal stopped a training, whose state is saved; EvaluationError, DataError and InputError
    for data that cannot be used, DivergedError, and what `synthesize` raises.
    """
    material = open_material(study.data, study.held_out, study.count)
    check_labels(runner, material.real)
    for share in study.shares:
        _check_share(study, material, share)
    learners = Learners(material, study.budget, Reading(runner.manifest.resolution), study.workers, progress)
    files = {job: _file(study, job, material, runner.manifest) for job in study.jobs()}
    facts = _facts(study, material, runner.manifest)
    with writable(study.out):
        for job in _left(files, progress):
            _measure(study, job, files[job], learners, runner)
            write_usefulness(study, facts, _results(files))
        return write_usefulness(study, facts, _results(files))


def _check_share(study: Study, material: Material, share: float) -> None:
    images, batch = len(material.share(share, seed=0).examples), study.budget.batch
    if images < batch:
        raise EvaluationError(
            f"--shares: {share:g}% of {len(material.real.examples)} images are {images}, under a batch of {batch}; "
            "leave that share out, lower --batch or take more --data"
        )


def _left(files: Mapping[Job, Path], progress: Progress) -> Iterator[Job]:
    """The rows without a result, each told of with the time until the last one's."""
    start, measured = time.monotonic(), 0
    for number, ((arm, seed), file) in enumerate(files.items(), 1):
        with reading(file):
            left = sum(not each.exists() for each in files.values())
            if file.exists():
                continue
        told = f"row {number} of {len(files)}: {arm.share:g}%, {arm.series}, seed {seed}"
        if measured:
            rest = (time.monotonic() - start) / measured * left
            told += f"; all rows in {timedelta(seconds=round(rest))}"
        progress.note(told)
        yield arm, seed
        measured += 1


def _measure(study: Study, job: Job, file: Path, learners: Learners, runner: Runner) -> None:
    """Teach the learners of a row, and write its result."""
    arm, seed = job
    share = learners.material.share(arm.share, seed)
    generated: tuple[Example, ...] = ()
    if arm.times:
        folder = study.out / "generated" / _set_name(study, job, learners.material, runner.manifest)
        generated = synthetic(share, study.recipe(arm, seed), arm.box, folder, runner, learners.progress)
    real = share.examples if arm.real else ()
    work = study.out / "networks" / file.stem
    scores = learners.scores(replace(share, examples=real + generated), work, seed)
    result = {
        "row": arm.key,
        "seed": seed,
        "real_images": len(real),
        "generated_images": len(generated),
        "scores": {score.name: asdict(score) for score in scores},
    }
    write_file(file, json.dumps(result, indent=1).encode())
    shutil.rmtree(work, ignore_errors=True)  # a detector's state is 200 MB, and no longer needed


def _file(study: Study, job: Job, material: Material, manifest: Manifest) -> Path:
    """The file of a row's result, named after all that it depends on."""
    arm, seed = job
    made_of = [study.budget, ARCHITECTURE, detectors.SIDE_PX, manifest.resolution, *material.keys]
    if arm.times:
        made_of.append(_set_name(study, job, material, manifest))
    return study.out / "rows" / f"{arm.key}-seed{seed}-{key_of(*made_of)}.json"


def _set_name(study: Study, job: Job, material: Material, manifest: Manifest) -> str:
    """A name of a row's generated images that no others have; rows that differ in the real images alone share it."""
    arm, seed = job
    key = key_of(study.recipe(arm, seed), manifest.identity(), material.keys[0])
    return f"{arm.share:g}-{arm.times}x-{arm.box}-seed{seed}-{key}"


def _facts(study: Study, material: Material, manifest: Manifest) -> dict[str, Any]:
    """Counts of the data, and the model's name. Folders by name: where they lie is a machine's own."""
    names = material.real.vocabulary.labels
    return {
        "data": study.data.name,
        "held_out": (study.held_out or study.data).name,
        "model": f"{manifest.variant} ({model_name(manifest)})",
        "detector": ARCHITECTURE,
        "real_images": len(material.real.examples),
        "held_out_images": len(material.held_out.examples),
        "objects": {names[label]: count for label, count in material.objects.items()},
        "rare": [names[label] for label in material.rare],
    }


def _results(files: Mapping[Job, Path]) -> dict[Job, dict[str, Any]]:
    """The results that there are. Raises EvaluationError for one that is damaged."""
    found = {}
    for job, file in files.items():
        with reading(file):
            if not file.exists():
                continue
            try:
                found[job] = parse_json(file.read_bytes())
            except ValueError as error:
                raise EvaluationError(f"{file}: damaged ({error}); delete it to measure that row again") from error
    return found
