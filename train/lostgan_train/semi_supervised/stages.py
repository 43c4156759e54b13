"""The stages before the LostGAN's training. Each leaves files in the detector's folder, which say what they were made
with, so that a later run, also one with another LostGAN or another threshold, finds them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lostgan_serve.errors import DataError, TrainingError
from lostgan_serve.files import parse_json, reading, write_file
from lostgan_serve.progress import SILENT, Progress
from lostgan_train import distributed
from lostgan_train.data import Example, LayoutDataset, Source, check_split
from lostgan_train.data.coco import ANNOTATIONS_FILE
from lostgan_train.data.json_file import load_json
from lostgan_train.distributed import Processes
from lostgan_train.loop import Loop
from lostgan_train.semi_supervised import detector as detectors
from lostgan_train.semi_supervised.detector import Detector, DetectorPlan, batches_for, loop_of
from lostgan_train.semi_supervised.pseudo_labels import Detected, Precision, average_precision, detect, pseudo_label
from lostgan_train.settings import SemiSettings
from lostgan_train.signals import stop_on_signals

DETECTOR_FOLDER, DETECTIONS_FILE = "detector", "detections.json"

LEAVE_OUT, WEIGHTED = "leave-out", "weighted"
"""The first and the third setting of table 5; the second is "as-annotated"."""

LEAST_SCORE = 0.05
"""Probability from which detections are kept, or the threshold if that is less. Average precision counts unlikely
detections, too, and another threshold finds its objects without another detection."""

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_STAGE = ("annotated", "detector", "detector_weights", "detector_steps", "detector_batch", "seed")
"""Settings that the detector and its detections depend on."""


def complete(settings: SemiSettings, source: Source, out: Path, progress: Progress = SILENT) -> Source | None:
    """The annotated images, and the others with pseudo-labels, as `settings.detections` says (table 5).

    out: the folder of the run. None where SIGTERM or SIGINT stopped a stage; what it had is saved. Raises
    TrainingError where the detector's folder holds another run or the detector does not learn, DataError,
    CheckpointError and OutputError.
    """
    annotated, unlabelled = parts(settings, source)
    if settings.detections == LEAVE_OUT:
        return annotated
    folder = settings.detector_folder or out / DETECTOR_FOLDER
    made_with = {name: value.name if isinstance(value := getattr(settings, name), Path) else value for name in _STAGE}
    made_with |= {"least_score": min(LEAST_SCORE, settings.threshold)}
    made_with |= {"images": [_digest(annotated, settings.data), _digest(unlabelled, _home(settings))]}
    path = folder / DETECTIONS_FILE
    processes = distributed.start()
    progress = processes.telling(progress)
    stop: list[bool] = []
    with stop_on_signals(lambda: stop.append(True)):
        with reading(path):
            (missing,) = processes.any(not path.exists())
        if missing and not _detect_all(settings, annotated, unlabelled, folder, made_with, processes, progress):
            return None
        if processes.any(bool(stop))[0]:
            progress.note("stopped after the detector; go on with --resume")
            return None
    return _combine(settings, path, annotated, unlabelled, made_with, progress)


def parts(settings: SemiSettings, source: Source) -> tuple[Source, Source]:
    """The annotated images and the others, in their order: a share of the source's, drawn by the seed, and the rest; or
    all of them and the images of `settings.unlabelled`. Raises DataError where one of the two would be empty."""
    if settings.unlabelled is not None:
        return source, replace(source, examples=_unannotated(settings.unlabelled))
    total = len(source.examples)
    count = round(settings.annotated * total)
    if not 0 < count < total:
        raise DataError(
            f"{source.summary.folder}: --annotated {settings.annotated} of {total} images is {count}; both need some"
        )
    chosen = set(torch.randperm(total, generator=torch.Generator().manual_seed(settings.seed))[:count].tolist())
    halves = (tuple(e for k, e in enumerate(source.examples) if (k in chosen) is mine) for mine in (True, False))
    annotated, unlabelled = (replace(source, examples=examples) for examples in halves)
    return annotated, unlabelled


def _unannotated(folder: Path) -> tuple[Example, ...]:
    """The images in a folder and in those below it, without objects. Raises DataError where there are none, and for
    scenes that are held out."""
    with reading(folder):
        for beside in (folder, folder.parent):
            if (path := beside / ANNOTATIONS_FILE).is_file():
                check_split(load_json(path, _info_only), path, "train")
        files = sorted(path for path in _files_below(folder) if path.suffix.lower() in _IMAGES)
    if not files:
        raise DataError(f"{folder}: no folder with images ({', '.join(_IMAGES)}); name the one of --unlabelled")
    return tuple(Example(path, (), (), ()) for path in files)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and in those below it. Raises OSError for one that may not be searched."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        yield from (Path(parent, name) for name in names)


def _detect_all(
    settings: SemiSettings,
    annotated: Source,
    unlabelled: Source,
    folder: Path,
    made_with: Mapping[str, Any],
    processes: Processes,
    progress: Progress,
) -> bool:
    """Train the detector, or go on with it, and write what it finds. Returns whether nothing stopped it."""
    detector, loop = detector_loop(settings, annotated, folder, made_with, processes, progress)
    learnt_from = LayoutDataset(annotated, detectors.SIDE_PX, seed=settings.seed)
    if not loop.run(batches_for(_plan(settings), learnt_from, processes)):
        progress.note(f"stopped after step {loop.done} of the detector; go on with --resume")
        return False
    found = detect(
        detector.network,
        LayoutDataset(unlabelled, detectors.SIDE_PX, flip=False),
        made_with["least_score"],
        settings.detector_batch,
        settings.workers,
        processes,
        progress,
    )
    if found is None:
        progress.note("stopped while labelling; --resume begins that stage again")
        return False
    if processes.count > 1:
        write_file(_part(folder, processes.rank), json.dumps(found).encode())
        processes.wait()
    if processes.first:
        shares = [_read_part(folder, rank) for rank in range(1, processes.count)]
        for share in shares:
            found |= share
        _write(folder / DETECTIONS_FILE, dict(sorted(found.items())), unlabelled, settings, made_with)
        for rank in range(processes.count):
            _part(folder, rank).unlink(missing_ok=True)
    return True


def detector_loop(
    settings: SemiSettings,
    annotated: Source,
    folder: Path,
    made_with: Mapping[str, Any],
    processes: Processes,
    progress: Progress,
) -> tuple[Detector, Loop]:
    """The detector and its loop, from the newest state in `folder` if there is one. Raises TrainingError where that is
    of another run, or the batch is too large or does not divide."""
    batch, world = settings.detector_batch, processes.count
    if batch > len(annotated.examples):
        raise TrainingError(
            f"--detector-batch {batch} is more than the {len(annotated.examples)} annotated images; lower it"
        )
    if batch % world:
        raise TrainingError(f"--detector-batch {batch} does not divide into {world} processes; choose a multiple")
    plan = _plan(settings)
    detector = Detector(plan, len(annotated.vocabulary), processes, progress)
    loop = loop_of(detector, plan, folder, made_with, processes, progress)
    loop.resume(lambda file, about: _check_same_run(file, about, made_with))
    return detector, loop


def _plan(settings: SemiSettings) -> DetectorPlan:
    return DetectorPlan(
        settings.detector,
        settings.detector_steps,
        settings.detector_batch,
        settings.seed,
        settings.workers,
        settings.detector_weights,
    )


def _part(folder: Path, rank: int) -> Path:
    return folder / f"detections-{rank}.json"


def _read_part(folder: Path, rank: int) -> dict[int, Detected]:
    return {int(index): each for index, each in parse_json(_part(folder, rank).read_bytes()).items()}


def _write(
    path: Path, found: dict[int, Detected], unlabelled: Source, settings: SemiSettings, made_with: Mapping[str, Any]
) -> None:
    truth = [unlabelled.examples[index] for index in found]
    precision = None if settings.unlabelled else _shown(average_precision(list(found.values()), truth))
    images = {_name(example, _home(settings)): each for example, each in zip(truth, found.values(), strict=True)}
    content = {"made_with": made_with, "precision": precision, "images": images}
    write_file(path, json.dumps(content).encode())


def _shown(precision: Precision) -> dict[str, float]:
    return {"ap": precision.ap, "ap50": precision.ap50, "ap75": precision.ap75}


def _info_only(item: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without its long lists."""
    return {key: value for key, value in item.items() if not isinstance(value, list)}


def _digest(source: Source, folder: Path) -> str:
    """A short hash of the names of a source's images below a folder, in their order."""
    names = "\n".join(_name(example, folder) for example in source.examples)
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _name(example: Example, folder: Path) -> str:
    """An image's path, seen from the folder of its data: both may be moved together."""
    return os.path.relpath(example.image, folder)


def _home(settings: SemiSettings) -> Path:
    """The folder of the images that are not annotated."""
    return settings.unlabelled or settings.data


def _combine(
    settings: SemiSettings,
    path: Path,
    annotated: Source,
    unlabelled: Source,
    made_with: Mapping[str, Any],
    progress: Progress,
) -> Source:
    """The annotated images, and those with pseudo-labels that have as many objects as any annotated one.

    Detected objects are no smaller than any annotated one, and no more than there are slots: the limits that the data
    set's own filter keeps.
    """
    least_area = min(w * h for example in annotated.examples for _, _, w, h in example.boxes)
    most = annotated.vocabulary.slots - annotated.vocabulary.background
    fewest = min(len(example.labels) for example in annotated.examples)
    with reading(path):
        text = path.read_bytes()
    try:
        content = parse_json(text)
        precision, images = content["precision"], content["images"]
        _check_same_run(path, content["made_with"], made_with)
        labelled = [
            pseudo_label(example, images[name], settings.threshold, least_area, most)
            for example in unlabelled.examples
            if (name := _name(example, _home(settings))) in images
        ]
        if precision is not None:
            precision = {name: float(precision[name]) for name in ("ap", "ap50", "ap75")}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); delete it to label anew") from error
    kept = [example for example in labelled if len(example.labels) >= fewest]
    _report(labelled, precision, len(annotated.examples), len(kept), fewest, progress)
    if not kept:
        raise TrainingError(
            f"{path}: no image got {fewest} objects of probability {settings.threshold}; begin anew with a lower "
            f"--threshold and --detector-folder {path.parent}, or with more --detector-steps"
        )
    if settings.detections != WEIGHTED:
        kept = [replace(example, weights=(1.0,) * len(example.labels)) for example in kept]
    return replace(annotated, examples=annotated.examples + tuple(kept))


def _report(
    labelled: list[Example],
    precision: Mapping[str, float] | None,
    annotated: int,
    kept: int,
    fewest: int,
    progress: Progress,
) -> None:
    scores = [score for example in labelled for score in example.weights]
    per_image = len(scores) / max(len(labelled), 1)
    mean = sum(scores) / max(len(scores), 1)
    progress.note(f"labelled: {len(labelled)} images, {per_image:.1f} objects in each, mean probability {mean:.2f}")
    if precision is not None:
        progress.note(
            f"  against the annotations held back: AP {precision['ap']:.3f}, AP50 {precision['ap50']:.3f}, "
            f"AP75 {precision['ap75']:.3f}"
        )
    progress.note(
        f"training on {annotated} annotated images, and on {kept} labelled ones with at least {fewest} objects"
    )


def _check_same_run(path: Path, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compare the settings that two runs were made with. Raises TrainingError naming the first that differs."""
    for name, value in ours.items():
        if stored.get(name) != value:
            raise TrainingError(
                f"{path}: made with {name} {stored.get(name)}, not {value}; go on with the settings of that run, or "
                "choose another folder"
            )
