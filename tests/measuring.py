"""What tests of metrics share: a small extractor, tools that use it, and subjects made from scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.protocols import default_protocol
from lostgan_evaluate.sampling import layouts_of
from lostgan_evaluate.subject import Sample, Subject, Tools
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.contract import NO_OBJECT
from lostgan_serve.pipeline import Result
from lostgan_serve.progress import Progress
from lostgan_serve.render import object_picture
from lostgan_train.data import open_data
from lostgan_train.data.masks import WHOLE, cut, objects_of, read_masks


class Pixels:
    """An extractor: the colours of two halves, so few that a handful of images has a Fréchet distance.
    Its classes are its features."""

    name, version, batch = "pixels", "1", 16
    side_px: int | None = None

    def features(self, images: Tensor) -> dict[str, Tensor]:
        small = F.adaptive_avg_pool2d(images.float() / 8, (2, 1)).flatten(1)
        return {"features": small, "logits": small}


def tools_in(out: Path) -> Tools:
    """Tools that have `Pixels` alone, under the name of the network that every machine has."""
    return Tools(
        out,
        out / "networks",
        FeatureStore(out / "features", lambda _: Pixels()),
        WeightFiles(),
        ("efficientnet-lite0",),
        Progress(),
    )


def perfect(data: Path, out: Path, split: str = "val", side_px: int = 64) -> Subject:
    """A subject of scenes whose generated images are the real ones, and whose object maps are the true masks."""
    source = open_data(data, split=split)
    protocol = replace(default_protocol("scenes", side_px), split=split, samples=1)
    samples = []
    layouts = layouts_of(source.examples, source.vocabulary, protocol)
    out.mkdir(parents=True, exist_ok=True)
    for place, (example, layout) in enumerate(zip(source.examples, layouts, strict=True)):
        owners = np.full((side_px, side_px), NO_OBJECT, np.uint8)
        masks = read_masks(data, split, source.vocabulary, objects_of(example))
        for slot, item in enumerate(objects_of(example)):
            owners[cut(masks[item].pixels(), WHOLE, side_px)] = slot
        file, objects = out / f"{layout.name}.png", out / f"{layout.name}.objects.png"
        Image.open(example.image).save(file)
        object_picture(Result(layout, tuple(item.id for item in layout.objects), object_map=owners)).save(objects)
        samples.append(Sample(file, place, 0, objects))
    return Subject("perfect", tuple(samples), source.examples, protocol, source, data)
