"""Recognition: a classifier that learns from real objects is shown generated ones, as in Layout2Im's accuracy.

CAS goes the other way; the paper contrasts the two (section 3, evaluation metrics): this one overlooks how diverse
the generated objects are. The classifier is small, and the same that training's diagnostics have.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lostgan_evaluate.crops import Object, generated_objects, read_crops, real_objects, taught
from lostgan_evaluate.images import Reading, Region, read
from lostgan_evaluate.metrics import Metric, needs_training
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.figures import Tile
from lostgan_train.classifier import Confusion, Lesson, probabilities
from lostgan_train.states import key_of

SHEET = "failures.png"
MOST_TRAINING_IMAGES = 1500

_COLUMNS, _ROWS, _TILE_PX = 8, 3, 128


def _measure(subject: Subject, tools: Tools) -> Measured:
    assert subject.source is not None
    vocabulary = subject.source.vocabulary
    network = learnt(subject, tools)
    objects = generated_objects(subject, subject.first_styles())
    seen = {}
    for name, part in (("generated", objects), ("real", real_objects(subject.real))):
        crops, labels = read_crops(part, subject.protocol.reading, tools.progress)
        seen[name] = (labels, probabilities(network, crops))
    generated, real = (Confusion.of(labels, found.argmax(1), vocabulary) for labels, found in seen.values())
    facts = {
        "crops": len(objects),
        "real_crops": len(seen["real"][0]),
        "mean_recall": generated.mean_recall,
        "real_mean_recall": real.mean_recall,
        "training_images": min(MOST_TRAINING_IMAGES, _training_images(subject)),
    }
    score = Score(
        "recognised", generated.accuracy, "higher", real=real.accuracy, by_label=generated.recalls, facts=facts
    )
    return Measured((score,), (_write_failures(subject, tools, objects, *seen["generated"]),))


def _training_images(subject: Subject) -> int:
    assert subject.training is not None
    return len(subject.training.examples)


def learnt(subject: Subject, tools: Tools) -> torch.nn.Module:
    """The classifier of the training data. Raises KeyboardInterrupt where SIGTERM or SIGINT stops it."""
    assert subject.training is not None
    vocabulary, reading = subject.training.vocabulary, subject.protocol.reading
    objects = real_objects(subject.training.examples[:MOST_TRAINING_IMAGES])
    shown = [(region.file.name, region.box, label) for region, label in objects]
    key = key_of(vocabulary.labels, reading, tools.seed, shown)
    lesson = Lesson(key, len(objects), lambda: read_crops(objects, reading, tools.progress))
    return taught(lesson, vocabulary, "recognition", tools)


def _write_failures(subject: Subject, tools: Tools, objects: list[Object], labels: Tensor, found: Tensor) -> str:
    """The objects whose own label is least probable, as figure 15 shows failures: each with its own label and with the
    one that it is taken for."""
    assert subject.source is not None
    names = subject.source.vocabulary.labels
    worst = found.gather(1, labels[:, None])[:, 0].argsort()[: _COLUMNS * _ROWS].tolist()
    tiles = []
    for place in worst:
        region, label = objects[place]
        words = f"{names[label]}: {names[int(found[place].argmax())]}?"
        tiles.append(Tile(_framed(region, subject.protocol.reading), words))
    rows = [
        Row("least\nrecognised" if start == 0 else "", tiles[start : start + _COLUMNS])
        for start in range(0, len(tiles), _COLUMNS)
    ]
    return write_sheet(tools.out / SHEET, rows, _TILE_PX)


def _framed(region: Region, reading: Reading) -> Image.Image:
    """The image with the region's box."""
    image = Image.fromarray(read(Region(region.file, region.size_px), reading))
    picture = image.resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
    x, y, width, height = (round(part * _TILE_PX) for part in region.box or (0, 0, 1, 1))
    draw = ImageDraw.Draw(picture)
    for inset, color in enumerate(("black", "white")):
        right, bottom = max(x + width - 1 - inset, x + inset), max(y + height - 1 - inset, y + inset)
        draw.rectangle((x + inset, y + inset, right, bottom), outline=color)
    return picture


METRIC = Metric(
    "recognition",
    "Share of generated objects that a classifier of real ones recognises",
    needs_training,
    _measure,
)
