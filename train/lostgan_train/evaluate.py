"""Scores of a generator on the layouts of held-out scenes: its object maps against the true masks, and the share of its
objects that are recognised."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lostgan_serve.contract import INPUT_NAMES, Array
from lostgan_serve.encoding import encode
from lostgan_serve.errors import TrainingError
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import Result
from lostgan_serve.png import png
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.render import contact_sheet
from lostgan_train.classifier import (
    Confusion,
    Lesson,
    boxes_of,
    crop,
    draw_crops,
    drawn,
    ids_of,
    recognise,
    train_classifier,
    training_side,
)
from lostgan_train.diagnostics import GRASS, SKY, Look, LookMeter, owners_by_box
from lostgan_train.distributed import Processes
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint
from lostgan_train.networks.generator import to_pixels
from lostgan_train.networks.layers import resize
from lostgan_train.networks.masks import object_map
from lostgan_train.synthetic.compose import Scene
from lostgan_train.synthetic.dataset import FIRST_HELD_OUT_SEED, MOST_SEEDS

_BATCH = 8
_PIXELS_AT_ONCE = _BATCH * 256**2  # a batch of larger pictures is generated in parts, for the sake of memory
_SHEET_COLUMNS = 8


@dataclass(frozen=True)
class LayoutScores:
    """Means over objects or scenes. object_map_iou: intersection over union of the region that an object owns in the
    object map and its true mask. box_iou: the same for its box, smaller boxes over larger ones. style_distance: mean
    difference of a pixel between two styles of a layout, in levels of 255. l1: between generated and drawn picture.
    real_look, look: figures of the drawn pictures and of the first style of the generated ones.
    real, generated: what the objects of the drawn pictures, and of both styles of the generated ones, were taken for.
    """

    scenes: int
    objects: int
    object_map_iou: float
    box_iou: float
    style_distance: float
    l1: float
    real_look: Look
    look: Look
    real: Confusion
    generated: Confusion

    def lines(self) -> list[str]:
        """The scores as lines of text."""
        real, generated, look, drawn = self.real, self.generated, self.look, self.real_look
        hardest = [f"{label} {share:.0%}" for label, share in generated.recalls.items()][:6]
        return [
            f"scenes                   {self.scenes}, {self.objects} objects",
            f"object map, mean IoU     {self.object_map_iou:.3f} (boxes alone: {self.box_iou:.3f})",
            f"crops recognised         real {real.accuracy:.1%}, generated {generated.accuracy:.1%}",
            f"  mean over labels       real {real.mean_recall:.1%}, generated {generated.mean_recall:.1%}",
            f"least often, generated   {', '.join(hardest)}",
            f"grid on grass            {look.grid:.3f} (drawn: {drawn.grid:.3f})",
            f"dark skies               {look.dark_sky:.1%} (drawn: {drawn.dark_sky:.1%})",
            f"spread of sky colours    {look.sky_spread:.0f} of 255 (drawn: {drawn.sky_spread:.0f})",
            f"two styles of a layout   {self.style_distance:.1f} of 255 apart in a pixel's colour, on average",
            f"picture against scene    {self.l1:.1f} of 255 apart, on average",
        ]


def load_generator(path: Path) -> Checkpoint:
    """Read a generator of the built-in scenes. Raises InputError, CheckpointError, and TrainingError for another."""
    checkpoint = load_checkpoint(path)
    if (name := checkpoint.vocabulary.name) != "scenes":
        raise TrainingError(f"{path}: generates {name}; only generators of scenes can be scored")
    return checkpoint


def evaluate(
    checkpoint: Checkpoint, count: int, training_scenes: int, progress: Progress = SILENT
) -> LayoutScores | None:
    """Score a generator on `count` held-out scenes by a classifier that learns from crops of `training_scenes` drawn
    ones. None where SIGTERM or SIGINT stopped it."""
    side = training_side(checkpoint.generator.config.resolution)
    crops, labels = draw_crops(range(training_scenes), side, progress)
    with tempfile.TemporaryDirectory(prefix="lostgan-classifier-") as folder:
        lesson = Lesson("scenes", len(labels), lambda: (crops, labels))
        classifier = train_classifier(lesson, checkpoint.vocabulary, Path(folder), Processes(), progress)
    return None if classifier is None else score_layouts(checkpoint, classifier, count, progress)


def score_layouts(
    checkpoint: Checkpoint, classifier: nn.Module, count: int, progress: Progress = SILENT
) -> LayoutScores:
    """Generate the layouts of `count` held-out scenes in two styles each, and compare them with the scenes.

    Scenes with more objects than the vocabulary has slots are passed over. classifier: as of `train_classifier`.
    """
    ious: list[float] = []
    of_boxes: list[float] = []
    distances: list[float] = []
    differences: list[float] = []
    labels, real, generated = [], [], []
    on_drawn, on_made = LookMeter(), LookMeter()
    for batch in _batches_of_scenes(checkpoint, count, progress):
        layouts = [layout for layout, _ in batch]
        styles = [_generate(checkpoint, layouts, style) for style in (0, 1)]
        for k, (_, scene) in enumerate(batch):
            image, other = (images[k].astype(np.float32) for images, _ in styles)
            distances.append(float(np.abs(image - other).mean()))
            differences.append(float(np.abs(image - scene.image).mean()))
            ious += object_ious(styles[0][1][k], scene.masks)
            of_boxes += object_ious(owners_by_box(boxes_of(scene), len(image)), scene.masks)
        boxes = [boxes_of(scene) for _, scene in batch]
        pictures = [np.stack([scene.image for _, scene in batch]), *(images for images, _ in styles)]
        guesses = [recognise(classifier, crop(torch.from_numpy(images), boxes)) for images in pictures]
        grass, sky = (np.stack([_region(scene, label) for _, scene in batch]) for label in (GRASS, SKY))
        for meter, images in zip((on_drawn, on_made), pictures, strict=False):
            meter.add(images, grass, sky)
        labels += [ids_of(scene) for _, scene in batch]
        real.append(guesses[0])
        generated.append(torch.stack(guesses[1:], 1))
    truth = torch.cat(labels)
    on_real = Confusion.of(truth, torch.cat(real), checkpoint.vocabulary)
    on_generated = Confusion.of(truth.repeat_interleave(2), torch.cat(generated).flatten(), checkpoint.vocabulary)
    iou, of_box, distance, difference = (float(np.mean(values)) for values in (ious, of_boxes, distances, differences))
    looks = (on_drawn.look(), on_made.look())
    return LayoutScores(len(distances), len(ious), iou, of_box, distance, difference, *looks, on_real, on_generated)


def _batches_of_scenes(checkpoint: Checkpoint, count: int, progress: Progress) -> Iterator[list[tuple[Layout, Scene]]]:
    """The held-out scenes, a few at a time; each lot counts as done when the next is asked for."""
    scenes, done = _held_out(checkpoint, count), 0
    with progress.count("generating", count) as advance:
        while batch := list(islice(scenes, _BATCH)):
            yield batch
            done += len(batch)
            advance(done, "")


def _region(scene: Scene, label: str) -> Array:
    """The region that shows a label: [R, R] bool."""
    where: Array = scene.masks[[own == label for own in scene.labels]].any(0)
    return where


def repeats(checkpoint: Checkpoint) -> bool:
    """Whether a layout generated twice with one seed gives the same picture and object map, bit for bit."""
    layouts = [layout for layout, _ in _held_out(checkpoint, 1)]
    first, second = (_generate(checkpoint, layouts, style=0) for _ in range(2))
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def evaluation_sheet(checkpoint: Checkpoint) -> bytes:
    """PNG: for the first held-out scenes, the layout, the drawn picture, the generated one and its objects, and below
    it the generated one in another style."""
    layouts, scenes = zip(*_held_out(checkpoint, _SHEET_COLUMNS), strict=True)
    (images, owners), (others, _) = (_generate(checkpoint, layouts, style) for style in (0, 1))
    results = [
        Result(layout, tuple(item.id for item in layout.objects), image, owner)
        for layout, image, owner in zip(layouts, images, owners, strict=True)
    ]
    reals, below = ([Image.fromarray(picture) for picture in row] for row in ([s.image for s in scenes], others))
    return png(contact_sheet(results, reals=reals, below=below))


def _held_out(checkpoint: Checkpoint, count: int) -> Iterator[tuple[Layout, Scene]]:
    """The first held-out scenes that the generator has slots for, and their layouts."""
    seeds = range(FIRST_HELD_OUT_SEED, MOST_SEEDS)
    pairs = zip(seeds, drawn(seeds, checkpoint.generator.config.resolution), strict=False)
    capacity = _manifest(checkpoint).capacity
    fitting = ((_layout(scene, seed), scene) for seed, scene in pairs if len(scene.labels) <= capacity)
    return islice(fitting, count)


def _manifest(checkpoint: Checkpoint) -> Manifest:
    return checkpoint.manifest(checkpoint.vocabulary.slots, _BATCH)


def _layout(scene: Scene, seed: int) -> Layout:
    objects = [
        LayoutObject(label, (x, y, width, height), f"{label}-{number}")
        for number, (label, (x, y, width, height)) in enumerate(
            zip(scene.labels, boxes_of(scene).tolist(), strict=True)
        )
    ]
    return Layout(tuple(objects), seed, name=scene.kind)


@torch.no_grad()
def _generate(checkpoint: Checkpoint, layouts: Sequence[Layout], style: int) -> tuple[Array, Array]:
    """One style of each layout: images [B, R, R, 3] uint8 and object maps [B, R, R] uint8."""
    manifest = _manifest(checkpoint)
    tensors = encode([replace(layout, seed=2 * layout.seed + style) for layout in layouts], manifest)
    parts = -(-len(layouts) * manifest.resolution**2 // _PIXELS_AT_ONCE)
    images, owners = [], []
    for part in zip(*(torch.from_numpy(tensors[name]).chunk(parts) for name in INPUT_NAMES), strict=True):
        output = checkpoint.generator(*part)
        images.append(to_pixels(output.image).numpy())
        owners.append(object_map(resize(output.mask_final, manifest.resolution)).numpy())
    return np.concatenate(images), np.concatenate(owners)


def object_ious(owners: Array, masks: Array) -> list[float]:
    """Intersection over union of the region that each object owns and its true mask, NaN where both are empty.

    owners: [R, R], the object of each pixel. masks: [N, R, R] bool.
    """
    regions = owners[None] == np.arange(len(masks))[:, None, None]
    both, either = (regions & masks).sum((1, 2)), (regions | masks).sum((1, 2))
    return list(both / either)
