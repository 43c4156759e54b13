"""The look of generated scenes: a grid on grass, nights, and how much the light of skies differs.

Training's diagnostics give the same figures of the pictures that it learns from. Here they are of all generated images,
and of the real images of the same layouts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from lostgan_evaluate.images import Region, read
from lostgan_evaluate.metrics import Metric, needs_layouts
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Subject, Tools
from lostgan_serve.contract import Array
from lostgan_train.data.masks import WHOLE, all_objects, cut, objects_of, read_masks, without_masks
from lostgan_train.diagnostics import GRASS, SKY, Look, LookMeter, owners_by_box, region_of


def _why_not(subject: Subject, tools: Tools) -> str | None:
    if reason := needs_layouts(subject, tools):
        return reason
    assert subject.source is not None
    known = {GRASS, SKY} & set(subject.source.vocabulary.labels)
    return None if known else f"the labels have neither {GRASS} nor {SKY}"


def _measure(subject: Subject, tools: Tools) -> Measured:
    generated = [(sample.place, Region(sample.file)) for sample in subject.samples if sample.place is not None]
    real = [(place, Region(example.image, example.size_px)) for place, example in enumerate(subject.real)]
    regions = _regions(subject)
    own, theirs = (_look(pictures, regions, subject, tools) for pictures in (generated, real))
    facts = {"images": len(generated), "real_images": len(real)}
    scores = (
        Score(name, value, "nearer", real=vars(theirs)[name], facts=facts)
        for name, value in vars(own).items()
        if not math.isnan(value) and not math.isnan(vars(theirs)[name])
    )
    return Measured(tuple(scores))


def _regions(subject: Subject) -> list[Array]:
    """The grass and the sky of each layout, [2, R, R] bool: pixels whose smallest box is that object's, and which its
    true mask covers, too, where the annotations have masks."""
    assert subject.source is not None
    assert subject.data is not None
    vocabulary, side_px = subject.source.vocabulary, subject.protocol.resolution_px
    known = without_masks(subject.data) is None
    masks = read_masks(subject.data, subject.protocol.split, vocabulary, all_objects(subject.real)) if known else {}
    regions = []
    for example in subject.real:
        owners = owners_by_box(torch.tensor(example.boxes), side_px)
        for slot, item in enumerate(objects_of(example)):
            if item in masks:
                owners[(owners == slot) & ~cut(masks[item].pixels(), WHOLE, side_px)] = -1
        regions.append(np.stack([region_of(label, owners, example.labels, vocabulary) for label in (GRASS, SKY)]))
    return regions


def _look(pictures: Sequence[tuple[int, Region]], regions: Sequence[Array], subject: Subject, tools: Tools) -> Look:
    """The look of images, each with the place of its layout."""
    meter, reading = LookMeter(), subject.protocol.reading
    with tools.progress.count("looking", len(pictures)) as advance:
        for done, (place, file) in enumerate(pictures, 1):
            grass, sky = regions[place]
            meter.add(read(file, reading)[None], grass[None], sky[None])
            advance(done, "")
    return meter.look()


METRIC = Metric("look", "Grid on grass, share of dark skies, spread of the skies' colours", _why_not, _measure)
