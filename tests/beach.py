"""Images of a beach and their object maps, as a model of COCO-Stuff would write them: GauGAN's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conftest import a_manifest
from lostgan_evaluate.sampling import fill
from lostgan_serve.contract import NO_OBJECT, Array, Tensors
from lostgan_serve.layout import Layout
from lostgan_serve.samples import SampleSet


class BoxRunner:
    """A model whose masks are the boxes, and whose images show nothing."""

    concurrency = 1

    def __init__(self, vocabulary: str) -> None:
        self.manifest = a_manifest(vocabulary, variant="v1-64")

    def run(self, tensors: Tensors, _outputs: Sequence[str]) -> dict[str, Array]:
        boxes = (tensors["boxes"] * 64).round().astype(int)
        owners = np.full((len(boxes), 64, 64), NO_OBJECT, np.uint8)
        for own, layout in zip(owners, boxes, strict=True):
            for slot, (x, y, width, height) in enumerate(layout):
                if x >= 0:
                    own[y : y + height, x : x + width] = slot
        image = np.repeat(owners[..., None], 3, -1)
        return {"image": image, "object_map": owners}

    def close(self) -> None:
        pass


BEACH = [
    {"label": "sky-other", "box": [0, 0, 1, 0.4]},
    {"label": "sea", "box": [0, 0.4, 1, 0.25]},
    {"label": "sand", "box": [0, 0.65, 0.8, 0.35]},
    {"label": "person", "box": [0.25, 0.5, 0.125, 0.375]},
    {"label": "person", "box": [0.375, 0.5, 0.125, 0.375]},
]


def beach_layouts(count: int = 2) -> list[Layout]:
    return [Layout.parse({"seed": n, "objects": BEACH[: 5 - n]}, f"beach-{n}") for n in range(count)]


def write_samples(folder: Path, layouts: list[Layout], vocabulary: str = "coco-stuff") -> None:
    fill(layouts, SampleSet(folder, ("image", "object_map")), BoxRunner(vocabulary))
