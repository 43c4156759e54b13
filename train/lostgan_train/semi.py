"""Semi-supervised training (section 2.2.6): a Faster R-CNN learns from the annotated images of a set and labels the
rest, and the probability of each object that it finds weighs the object's loss (equation 15).

Each stage leaves one file, which says what it was made with: `detector.pt`, from which an interrupted detector goes on
exactly, then `labels.json`. The LostGAN's own training comes after them, in the same folder. So the command, run again,
goes on with whatever is not finished.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import box_convert, box_iou

from lostgan_serve.contract import IMAGE_LABEL
from lostgan_serve.errors import CheckpointError, DataError, TrainingError
from lostgan_serve.files import write_file
from lostgan_train import distributed
from lostgan_train.data import Batch, Example, LayoutDataset, Source, batches_of, loader
from lostgan_train.progress import progress
from lostgan_train.signals import stop_on_signals
from lostgan_train.trainer import MOST_SKIPS

DETECTOR_FILE, LABELS_FILE = "detector.pt", "labels.json"

SIDE_PX = 320
"""The detector sees every image stretched to a square of this side, as the LostGAN sees it at its own."""

IOU = 0.5
"""From which on a detected box counts as that of an annotated object of its label."""

LEARNING_RATE, WARM_UP = 5e-4, 200
"""The rate rises to this over the first steps (or a tenth of all, if that is less), then falls as a half cosine."""

_MOST_GRADIENT = 10.0
_SAVE_S, _POLL_S = 300.0, 2.0


@dataclass(frozen=True)
class SemiConfig:
    """The stages before the LostGAN's own.

    annotated: the share of the images whose annotations are used. threshold: the least probability of a detected object
    (tau of equation 15). detector_steps, detector_batch: updates of the detector, and images in each. seed: of the
    split, and of all that is random in the detector's training.
    """

    annotated: float = 0.5
    threshold: float = 0.5
    detector_steps: int = 20_000
    detector_batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Quality:
    """Detected objects beside the annotations that were held back; matched by label, and IoU of `IOU` or more.

    mean_score: of the detected, in [0, 1]. precision: the share of the detected that match. recall: the share of the
    annotated that are matched. All are 0 where there is nothing to share in.
    """

    images: int
    objects: int
    mean_score: float
    precision: float
    recall: float


def complete(
    config: SemiConfig, source: Source, data: Path, out: Path, workers: int = 1, echo: Callable[[str], None] = print
) -> Source | None:
    """The set with detected objects in place of the annotations of its unlabelled images: the stages before the
    LostGAN's, or what they left in `out`. None where SIGTERM or SIGINT stopped one of them; what it had is saved.

    data: the folder of the source. workers: processes that load images. Under torchrun rank 0 does the work and the
    others wait for the file. Raises TrainingError where `out` holds another run or the detector does not learn;
    DataError, CheckpointError and OutputError.
    """
    annotated, unlabelled = split(source, config.annotated, config.seed)
    made_with = {"data": str(data.resolve()), "images": len(source.examples), **asdict(config)}
    path = out / LABELS_FILE
    if distributed.start()[0] == 0 and not path.exists():
        if any(out.glob("state-*.pt")):
            raise TrainingError(f"{out}: holds a run of `train`; choose another --out")
        trainer = DetectorTrainer(config, annotated, out, made_with, workers, echo)
        if not trainer.run():
            return None
        examples = label(trainer.detector, annotated, unlabelled, config, workers, echo)
        if examples is None:
            return None
        _write_labels(path, examples, unlabelled, data, made_with)
    while not path.exists():  # no collective operation: those of torch.distributed give up after some minutes
        time.sleep(_POLL_S)
    return _combine(path, annotated, unlabelled, data, made_with, echo)


def split(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """Two sources over the same images: `share` of them as annotated, drawn by the seed, and the others as unlabelled,
    whose annotations only `measure` may look at. Both keep the order. Raises DataError where one would be empty."""
    total = len(source.examples)
    count = round(share * total)
    if not 0 < count < total:
        raise DataError(f"{source.summary.folder}: --annotated {share} of {total} images is {count}; both need some")
    chosen = set(torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist())
    halves = (tuple(e for k, e in enumerate(source.examples) if (k in chosen) is mine) for mine in (True, False))
    annotated, unlabelled = (replace(source, examples=examples) for examples in halves)
    return annotated, unlabelled


def build_detector(labels: int) -> nn.Module:
    """An untrained Faster R-CNN for `labels` ids; 0, which is `__image__` in a vocabulary, is its background.

    MobileNetV3 under a feature pyramid: nothing pretrained is at hand, and in the same time it sees several times as
    many images as ResNet-50 would. The box head learns from 64 regions of an image, as in Fast R-CNN: torchvision's 512
    would be most of the work.
    """
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=labels,
        min_size=SIDE_PX,
        max_size=SIDE_PX,
        box_batch_size_per_image=64,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=300,
    )
    return cast(nn.Module, detector)


class DetectorTrainer:
    """Training of the detector. What is random in a step - the images, their flips, the regions that are learnt from -
    is a function of the seed and the step's number, as in the LostGAN's training.

    source: the annotated images. Goes on from the state in `out` if there is one. Raises TrainingError where that is of
    another run or the batch is larger than the source, and CheckpointError where it cannot be read.
    """

    def __init__(
        self,
        config: SemiConfig,
        source: Source,
        out: Path,
        made_with: Mapping[str, Any],
        workers: int = 1,
        echo: Callable[[str], None] = print,
    ) -> None:
        self.config, self.path, self.workers, self.echo = config, out / DETECTOR_FILE, workers, echo
        self.made_with = {name: value for name, value in made_with.items() if name != "threshold"}
        if config.detector_batch > len(source.examples):
            raise TrainingError(
                f"--detector-batch {config.detector_batch} is more than the {len(source.examples)} annotated images; "
                "lower it"
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.seed)
        self.detector = build_detector(len(source.vocabulary)).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.detector.parameters(), LEARNING_RATE, weight_decay=1e-4)
        self.dataset = LayoutDataset(source, SIDE_PX, seed=config.seed)
        self.done = self.skipped_in_a_row = 0
        self._stopping = False
        if self.path.exists():
            self._restore()

    def run(self) -> bool:
        """Train up to `config.detector_steps`, or until SIGTERM or SIGINT; either way the state is saved. Returns
        whether all is done. Raises TrainingError where losses stay non-finite, and OutputError."""
        steps, saved = self.config.detector_steps, time.monotonic()
        told = progress("detector", self.done, steps, self.config.detector_batch, self.echo)
        with stop_on_signals(self._stop), told as report:
            for batch in self.batches():
                losses = self.step(batch)
                report(self.done, losses)
                if time.monotonic() - saved > _SAVE_S or self.done == steps or self._stopping:
                    saved = time.monotonic()
                    self._save()
                if self._stopping:
                    break
        if self._stopping:
            self.echo(f"stopped after step {self.done} of the detector; the same command goes on")
        return not self._stopping

    def step(self, batch: Batch) -> dict[str, float]:
        """One update. A step whose losses or gradients are not finite changes nothing. Returns the losses by name."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.done)  # draws the regions that are learnt from
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        buffers = [buffer.clone() for buffer in self.detector.buffers()]
        losses = self.detector(_images(batch, self.device), _targets(batch, self.device))
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), _MOST_GRADIENT)
        if bool(torch.isfinite(total) & torch.isfinite(norm)):
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self._skip(buffers)
        self.done += 1
        return {name.removeprefix("loss_"): float(loss.detach()) for name, loss in losses.items()}

    def batches(self) -> Iterator[Batch]:
        """The batches from step `done` on, epoch by epoch; an epoch's last, incomplete batch is left out."""
        config = self.config
        return batches_of(
            self.dataset, config.detector_batch, self.done, config.detector_steps, config.seed, self.workers
        )

    def _rate(self) -> float:
        steps = self.config.detector_steps
        warm_up = min(WARM_UP, math.ceil(steps / 10))
        return LEARNING_RATE * min(1, (self.done + 1) / warm_up) * (1 + math.cos(math.pi * self.done / steps)) / 2

    def _skip(self, buffers: list[Tensor]) -> None:
        for buffer, before in zip(self.detector.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPS:
            raise TrainingError(
                f"{self.path}: {MOST_SKIPS} steps in a row were not finite; the same command goes on from the last "
                "state kept, another --seed and --out begin anew"
            )

    def _stop(self) -> None:
        self._stopping = True

    def _save(self) -> None:
        """Write the whole state, or leave the file as it was."""
        buffer = BytesIO()
        state = {"detector": self.detector.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({"made_with": self.made_with, "step": self.done, **state}, buffer)
        write_file(self.path, buffer.getvalue())

    def _restore(self) -> None:
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
            made_with = state["made_with"]
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = type(error).__name__
            raise CheckpointError(f"{self.path}: cannot be read ({reason}); delete it to train it anew") from error
        _check_same_run(self.path, made_with, self.made_with)
        self.detector.load_state_dict(state["detector"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["step"]


@torch.no_grad()
def label(
    detector: nn.Module,
    annotated: Source,
    unlabelled: Source,
    config: SemiConfig,
    workers: int = 1,
    echo: Callable[[str], None] = print,
) -> list[Example] | None:
    """The unlabelled images with what the detector finds in them, most probable first, and its probability as weight.

    Objects of at least `config.threshold`, no smaller than any annotated one, and no more than there are slots: the
    limits that the data set's own filter keeps. Images that cannot be decoded are left out. None where a signal came.
    """
    cast(Any, detector.eval()).roi_heads.score_thresh = config.threshold
    device = next(detector.parameters()).device
    least_area = min(w * h for example in annotated.examples for _, _, w, h in example.boxes)
    most = annotated.vocabulary.slots - annotated.vocabulary.background
    dataset = LayoutDataset(unlabelled, SIDE_PX, flip=False)
    batches = loader(dataset, workers, batch_size=config.detector_batch)
    found: list[Example] = []
    stop: list[bool] = []
    told = progress("labelling", 0, len(batches), config.detector_batch, echo)
    with stop_on_signals(lambda: stop.append(True)), told as report:
        for number, batch in enumerate(batches, 1):
            for detected in detector(_images(batch, device)):
                found.append(_example(unlabelled.examples[len(found)], detected, least_area, most))
            report(number, {})
            if stop:
                break
    if stop:
        echo("stopped while labelling; the same command begins that stage again")
        return None
    unreadable = set(dataset.unreadable)  # the dataset showed the next image in place of each of them
    return [example for example in found if example.image not in unreadable]


def measure(detected: Sequence[Example], truth: Sequence[Example]) -> Quality:
    """How well detected objects agree with annotated ones, image by image."""
    scores = [score for example in detected for score in example.weights]
    annotated = sum(len(example.labels) for example in truth)
    hits = sum(_hits(found, true) for found, true in zip(detected, truth, strict=True))
    count = len(scores)
    return Quality(len(detected), count, sum(scores) / max(count, 1), hits / max(count, 1), hits / max(annotated, 1))


def _hits(found: Example, truth: Example) -> int:
    """How many objects of an image, each taking at most one annotated object, the more probable first, are right."""
    if not found.labels or not truth.labels:
        return 0
    boxes = (box_convert(torch.tensor(example.boxes), "xywh", "xyxy") for example in (found, truth))
    same = torch.tensor(found.labels)[:, None] == torch.tensor(truth.labels)
    overlap = box_iou(*boxes) * same
    hits = 0
    for k in sorted(range(len(found.labels)), key=lambda k: -found.weights[k]):
        best, place = overlap[k].max(0)
        if best >= IOU:
            hits += 1
            overlap[:, place] = 0
    return hits


def _example(image: Example, detected: Mapping[str, Tensor], least_area: float, most: int) -> Example:
    """An image with detected objects; detected: boxes [N, 4] (corners in px), labels [N], scores [N], descending."""
    boxes = box_convert(detected["boxes"].double().cpu() / SIDE_PX, "xyxy", "xywh")
    kept = (boxes[:, 2] * boxes[:, 3] >= least_area).nonzero().flatten()[:most]
    x, y, w, h = boxes[kept].T.tolist()
    labels, scores = (detected[name].cpu()[kept].tolist() for name in ("labels", "scores"))
    return replace(image, labels=tuple(labels), boxes=tuple(zip(x, y, w, h, strict=True)), weights=tuple(scores))


def _write_labels(
    path: Path, detected: Sequence[Example], unlabelled: Source, data: Path, made_with: Mapping[str, Any]
) -> None:
    truth = {example.image: example for example in unlabelled.examples}
    content = {
        "made_with": made_with,
        "quality": asdict(measure(detected, [truth[example.image] for example in detected])),
        "images": {
            str(example.image.relative_to(data)): {
                "labels": example.labels,
                "boxes": example.boxes,
                "scores": example.weights,
            }
            for example in detected
        },
    }
    write_file(path, json.dumps(content).encode())


def _combine(
    path: Path,
    annotated: Source,
    unlabelled: Source,
    data: Path,
    made_with: Mapping[str, Any],
    echo: Callable[[str], None],
) -> Source:
    """The annotated images and the labelled ones of `path` with at least as many objects as any annotated one."""
    try:
        content = json.loads(path.read_bytes())
        quality, images = Quality(**content["quality"]), content["images"]
        _check_same_run(path, content["made_with"], made_with)
        labelled = [
            replace(
                example,
                labels=tuple(objects["labels"]),
                boxes=tuple(map(tuple, objects["boxes"])),
                weights=tuple(objects["scores"]),
            )
            for example in unlabelled.examples
            if (objects := images.get(str(example.image.relative_to(data))))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); delete it to label anew") from error
    fewest = min(len(example.labels) for example in annotated.examples)
    kept = [example for example in labelled if len(example.labels) >= fewest]
    _report(quality, len(annotated.examples), len(kept), fewest, echo)
    if not kept:
        raise TrainingError(
            f"{path}: no image got {fewest} objects of probability {made_with['threshold']}; delete it and lower "
            "--threshold, or give the detector more --detector-steps and another --out"
        )
    return replace(annotated, examples=annotated.examples + tuple(kept))


def _report(quality: Quality, annotated: int, kept: int, fewest: int, echo: Callable[[str], None]) -> None:
    per_image = quality.objects / max(quality.images, 1)
    echo(
        f"labelled: {quality.images} images, {per_image:.1f} objects in each, mean probability {quality.mean_score:.2f}"
    )
    echo(
        "  against the annotations held back, at IoU 0.5: "
        f"precision {quality.precision:.2f}, recall {quality.recall:.2f}"
    )
    echo(f"training on {annotated} annotated images, and on {kept} labelled ones with at least {fewest} objects")


def _check_same_run(path: Path, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises TrainingError naming the first option that differs."""
    for name, value in ours.items():
        if stored.get(name) != value:
            raise TrainingError(
                f"{path}: made with {name} {stored.get(name)}, not {value}; go on with the options of that run, or "
                "choose another --out"
            )


def _images(batch: Batch, device: torch.device) -> list[Tensor]:
    """As torchvision's detectors take them: [3, S, S] in [0, 1] each."""
    return list((batch["image"].to(device) + 1) / 2)


def _targets(batch: Batch, device: torch.device) -> list[dict[str, Tensor]]:
    """boxes [N, 4] (corners in px) and labels [N] of each image: neither empty slots, nor a background object, nor what
    is under a pixel wide."""
    sizes = batch["boxes"] * SIDE_PX
    corners = box_convert(sizes, "xywh", "xyxy")
    real = (batch["labels"] != IMAGE_LABEL) & (sizes[..., 2:] > 1).all(-1)
    return [
        {"boxes": boxes[own].to(device), "labels": labels[own].to(device)}
        for boxes, labels, own in zip(corners, batch["labels"], real, strict=True)
    ]
