"""Classification Accuracy Score (section 3.1.2, table 2): trained on generated objects, tested on real ones.

A network learns labels from crops of 32 x 32 px of the objects of all generated images, and recognises those of the
real images of the same layouts. Objects of every size count. The ceiling is the same network, taught in as many steps
by real crops of the training data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lostgan_evaluate.crops import Object, generated_objects, read_crops, real_objects, taught
from lostgan_evaluate.metrics import Metric, needs_layouts
from lostgan_evaluate.protocols import CropClassifier
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_train import distributed
from lostgan_train.classifier import Confusion, Lesson, Recipe, recognise, steps_of
from lostgan_train.states import key_of

PAPERS: CropClassifier = "resnet101"
"""The network whose score has the paper's name."""

STEPS: dict[CropClassifier, int] = {PAPERS: 78_000, "resnet18": 400}
"""Most steps of `BATCH` crops. Those of ResNet-101 are the usual 200 epochs of CIFAR's 50,000 images. ResNet-18 is for
measuring without a GPU: it sees 51,200 crops, in 10 minutes on a CPU core that computes bf16."""

EPOCHS: dict[CropClassifier, int] = {PAPERS: 200, "resnet18": 20}
"""Most epochs, which count where there are few crops."""

BATCH = 128

_MOST_SHIFT_PX = 4


def cifar_resnet(name: CropClassifier, labels: int) -> nn.Module:
    """An untrained ResNet for pictures of 32 x 32 px: its first convolution is 3 x 3, and nothing shrinks before the
    second stage."""
    network = torchvision.models.get_model(name, num_classes=labels)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return cast(nn.Module, network.to(memory_format=torch.channels_last))  # a quarter faster on CPUs


def mirrored_and_shifted(crops: Tensor) -> Tensor:
    """Crops as CIFAR's are usually changed: half of them mirrored, all shifted by up to 4 px each way, grey beyond.

    crops: [N, 3, S, S] in [-1, 1]; the result, too.
    """
    count, _, side, _ = crops.shape
    padded = F.pad(crops, [_MOST_SHIFT_PX] * 4)
    top, left = torch.randint(0, 2 * _MOST_SHIFT_PX + 1, (2, count, 1), device=crops.device)
    along = torch.arange(side, device=crops.device)
    mirrored = torch.rand(count, 1, device=crops.device) < 0.5
    rows, columns = top + along, left + torch.where(mirrored, along.flip(0), along)
    image = torch.arange(count, device=crops.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def recipe_for(name: CropClassifier, device: torch.device) -> Recipe:
    """The usual training of a ResNet on CIFAR: SGD with momentum, a half cosine, mirrored and shifted crops. bf16 where
    the device computes it."""
    return Recipe(
        lambda labels: cifar_resnet(name, labels),
        lambda parameters: torch.optim.SGD(parameters, momentum=0.9, weight_decay=5e-4),
        rate=0.1,
        warm_up=0.05,
        batch=BATCH,
        augment=mirrored_and_shifted,
        bf16=torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported(),
    )


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.source is not None
    name, vocabulary, reading = subject.protocol.crop_classifier, subject.source.vocabulary, subject.protocol.reading
    recipe = recipe_for(name, distributed.start().device)
    generated = generated_objects(subject, subject.samples)
    training = [] if subject.training is None else real_objects(subject.training.examples)
    steps = min(STEPS[name], steps_of(EPOCHS[name], len(generated), recipe))
    training = training[: steps * recipe.batch]  # no more than the network looks at
    crops, labels = read_crops(real_objects(subject.real), reading, tools.progress)
    score, ceiling = (
        Confusion.of(labels, recognise(_learnt(objects, name, steps, recipe, subject, tools), crops), vocabulary)
        if objects
        else None
        for objects in (generated, training)
    )
    assert score is not None
    facts = {
        "unit": "percent",
        "network": name,
        "steps": steps,
        "batch": recipe.batch,
        "precision": "bf16" if recipe.bf16 else "fp32",
        "crops": len(generated),
        "tested_crops": len(crops),
        "training_crops": len(training),
        "mean_recall": 100 * score.mean_recall,
        "real_mean_recall": None if ceiling is None else 100 * ceiling.mean_recall,
    }
    cas = Score(
        "cas" if name == PAPERS else f"cas_{name}",
        100 * score.accuracy,
        "higher",
        real=None if ceiling is None else 100 * ceiling.accuracy,
        by_label={label: 100 * recall for label, recall in score.recalls.items()},
        facts=facts,
    )
    return Measured((cas,))


def _learnt(
    objects: Sequence[Object], name: CropClassifier, steps: int, recipe: Recipe, subject: Subject, tools: Tools
) -> nn.Module:
    """The network that learns from these objects. Raises KeyboardInterrupt where SIGTERM or SIGINT stops it."""
    assert subject.source is not None
    crops, labels = read_crops(objects, subject.protocol.reading, tools.progress)
    vocabulary = subject.source.vocabulary
    content = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in (crops, labels)]
    lesson = Lesson(key_of(content, name, steps, tools.seed, vocabulary.labels), len(labels), lambda: (crops, labels))
    return taught(lesson, vocabulary, "cas", tools, steps, recipe)


METRIC = Metric(
    "cas",
    "Classification Accuracy Score: a network learns labels from generated objects and recognises real ones",
    needs_layouts,
    _measure,
)
