"""The Faster R-CNN of the first stage, and the updates of it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d, box_convert

from lostgan_serve.contract import IMAGE_LABEL
from lostgan_serve.errors import CheckpointError
from lostgan_serve.files import reading
from lostgan_serve.progress import Progress
from lostgan_train import distributed
from lostgan_train.data import Batch, Batches, LayoutDataset, Sampling, batches_of
from lostgan_train.distributed import Processes
from lostgan_train.loop import Loop, Rhythm, Stateful, update

SIDE_PX = 320
"""The detector sees every image stretched to a square of this side, as the LostGAN sees it at its own."""

LEARNING_RATE, WARM_UP = 5e-4, 200
"""The rate rises to this over the first steps (or a tenth of all, if that is less), then falls as a half cosine."""

_MOST_GRADIENT = 10.0
_SAVE_EVERY = 200
_BUILDERS = {"mobilenet": fasterrcnn_mobilenet_v3_large_320_fpn, "resnet50": fasterrcnn_resnet50_fpn}
_BODY = "backbone.body."
_CLASSES = "roi_heads.box_predictor."


@dataclass(frozen=True)
class DetectorPlan:
    """The training of a detector.

    architecture: see `build_detector`. steps: updates. batch: images in each, over all processes. workers: processes
    that load images, for each training process. weights: a file to start from, see `load_weights`.
    """

    architecture: str
    steps: int
    batch: int
    seed: int
    workers: int
    weights: Path | None = None


def build_detector(architecture: str, labels: int) -> nn.Module:
    """An untrained Faster R-CNN for `labels` ids; 0, which is `__image__` in a vocabulary, is its background.

    architecture: "mobilenet" (MobileNetV3 under a feature pyramid, which in the same time sees several times as many
    images) or "resnet50", as in the paper. The box head learns from 64 regions of an image, as in Fast R-CNN:
    torchvision's 512 would be most of the work.
    """
    detector = _BUILDERS[architecture](
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


def load_weights(detector: nn.Module, path: Path, progress: Progress) -> None:
    """Start a detector from torchvision's weights of the same architecture: a whole Faster R-CNN, whose last layer is
    left out, or a classifier, which becomes the backbone. Batch norm is frozen then, as torchvision does.

    Raises InputError for a file that is missing or may not be read, CheckpointError for one that is broken or of
    another network.
    """
    try:
        with reading(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
        given: dict[str, Tensor] = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    except (RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a state dict ({type(error).__name__}); name a file of torchvision's weights"
        ) from error
    _freeze_norms(detector)
    own = detector.state_dict()
    if not any(name.startswith("backbone.") for name in given):
        given = {_BODY + name.removeprefix("features."): value for name, value in given.items()}
    fitting = {
        name: value
        for name, value in given.items()
        if name in own and own[name].shape == value.shape and not name.startswith(_CLASSES)
    }
    body = [name for name in own if name.startswith(_BODY)]
    if missing := [name for name in body if name not in fitting]:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(body)} tensors of the backbone are not in it (such as {missing[0]}); "
            "check --detector"
        )
    detector.load_state_dict(own | fitting)
    progress.note(f"{path}: {len(fitting)} of {len(own)} tensors of the detector start from it")


def _freeze_norms(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(module.num_features, module.eps)
                frozen.load_state_dict(module.state_dict())
                setattr(parent, name, frozen)


class Detector:
    """A detector and the updates of it, for a `Loop`.

    labels: ids of the vocabulary. Raises CheckpointError for weights that cannot be used.
    """

    def __init__(self, plan: DetectorPlan, labels: int, processes: Processes, progress: Progress) -> None:
        self.steps, self.processes = plan.steps, processes
        torch.manual_seed(plan.seed)
        self.network = build_detector(plan.architecture, labels)
        if plan.weights is not None:
            load_weights(self.network, plan.weights, progress)
        distributed.synchronize_batch_norm(self.network)
        self.network.to(processes.device).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=1e-4)

    @property
    def state(self) -> Mapping[str, Stateful]:
        """The parts that a step changes, by name."""
        return {"detector": self.network, "optimizer": self.optimizer}

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """Make one update. Returns the losses by name. Raises NotFiniteError."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(number)
        terms = self.network(images_of(batch, self.processes.device), _targets(batch, self.processes.device))
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        update(
            self.network,
            self.optimizer,
            self.processes.mean(total),
            self.processes,
            most_gradient=_MOST_GRADIENT,
        )
        return {name.removeprefix("loss_"): self.processes.mean(loss) for name, loss in terms.items()}

    def _rate(self, number: int) -> float:
        warm_up = min(WARM_UP, math.ceil(self.steps / 10))
        return LEARNING_RATE * min(1, (number + 1) / warm_up) * (1 + math.cos(math.pi * number / self.steps)) / 2


def loop_of(
    detector: Detector,
    plan: DetectorPlan,
    out: Path,
    about: Mapping[str, Any],
    processes: Processes,
    progress: Progress,
) -> Loop:
    """The loop that trains a detector, with its states in `out`. about: what they say of the run."""
    return Loop(
        "detector", detector, out, Rhythm(plan.steps, _SAVE_EVERY),
        processes=processes, seed=plan.seed, images=plan.batch, about=about,
        hint="another --seed and --out begin anew", progress=progress,
    )  # fmt: skip


def batches_for(plan: DetectorPlan, dataset: LayoutDataset, processes: Processes) -> Callable[[int], Batches]:
    """A function that makes the batches from a step on. dataset: of images of `SIDE_PX`."""
    sampling = Sampling(plan.batch, plan.seed, rank=processes.rank, world=processes.count)
    return lambda first: batches_of(dataset, sampling, first, plan.steps, plan.workers)


def images_of(batch: Batch, device: torch.device) -> list[Tensor]:
    """A batch as torchvision's detectors take it: [3, S, S] in [0, 1] each."""
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
