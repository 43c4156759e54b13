"""Everything that takes input from outside, each as a function of bytes, with valid inputs to begin with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conftest import EXAMPLES
from fuzz.guard import Find, Target
from fuzz.mutations import Mutation, Seeds, either, of_bytes, of_json, of_onnx, of_safetensors
from lostgan_serve.contract import OUTPUT_NAMES, Array, Tensors, output_specs
from lostgan_serve.encoding import encode
from lostgan_serve.layout import Layout, parse_layouts
from lostgan_serve.manifest import Manifest
from lostgan_serve.vocabulary import Vocabulary


@dataclass(frozen=True)
class Materials:
    """What targets work with. model: a model's folder, as `export` makes it. checkpoint: of any generator. scratch: an
    empty folder of their own."""

    model: Path
    checkpoint: Path
    scratch: Path

    @property
    def onnx(self) -> Path:
        return self.model / "1" / "model.onnx"

    def file(self, name: str) -> Path:
        """A file in `scratch`, whose folder is there."""
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Fuzzed:
    """A target, ready to be tried. seeds: valid inputs. mutate: makes others of them."""

    target: Target
    seeds: Seeds
    mutate: Mutation


Opener = Callable[[Materials], Fuzzed]
TEXT = either(of_bytes, of_json, of_json)


def whole(good: object, words: str) -> None:
    """Raise Find for a result that is accepted and not good."""
    if not good:
        raise Find(f"accepted: {words}")


def check_tensors(tensors: Tensors) -> None:
    """The contract's inputs are finite, and every box has an area."""
    for name in ("boxes", "z_obj", "z_img"):
        whole(np.isfinite(tensors[name]).all(), f"{name} that are not finite")
    whole((tensors["boxes"][..., 2:] > 0).all(), "boxes without an area")


def check_layout(layout: Layout) -> None:
    """A layout's boxes lie on the canvas, its ids differ, and what is written of it is read as the same."""
    for item in layout.objects:
        x, y, width, height = item.box
        whole(min(item.box) >= 0 and min(width, height) > 0, f"a box beyond the canvas: {item.box}")
        whole(max(x + width, y + height) <= 1 + 1e-9, f"a box beyond the canvas: {item.box}")
    whole(len({item.id for item in layout.objects}) == len(layout.objects), "ids that are the same")


def open_layouts(_: Materials) -> Fuzzed:
    """layout.json: parsed, encoded, written and parsed again."""
    manifest = _a_manifest()

    def target(data: bytes) -> None:
        for layout in parse_layouts(data, "layout", "layout.json"):
            check_layout(layout)
            check_tensors(tensors := encode([layout], manifest))
            again = Layout.parse(layout.to_json(), layout.name)
            whole(again.to_json() == layout.to_json(), "a layout that is written and read as another")
            same = encode([again], manifest)
            whole(all(np.array_equal(same[name], tensors[name]) for name in tensors), "styles that do not persist")

    return Fuzzed(target, _layout_seeds(), TEXT)


def open_manifest(materials: Materials) -> Fuzzed:
    """manifest.json: parsed, written as a server's configuration, and read back as a client does."""
    from lostgan_serve.model_folder import ModelFolder
    from lostgan_serve.triton.configuration import write_configuration

    def target(data: bytes) -> None:
        manifest = Manifest.from_json(data, "manifest.json")
        write_configuration(ModelFolder(materials.scratch / "model"), manifest)
        again = Manifest.from_serving_parameters(manifest.serving_parameters(), "server")
        whole(again.identity() == manifest.identity(), "a manifest that a client reads as another")
        whole(1 <= manifest.capacity <= 254, f"room for {manifest.capacity} objects")

    return Fuzzed(target, [(materials.model / "1/manifest.json").read_bytes(), _a_manifest().to_json().encode()], TEXT)


def open_parameters(materials: Materials) -> Fuzzed:
    """The parameters that a server states of its model, as a client reads them."""
    manifest = Manifest.from_json((materials.model / "1/manifest.json").read_bytes(), "manifest.json")

    def target(data: bytes) -> None:
        try:
            stated = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(stated, dict):  # protobuf holds texts alone
            stated = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in stated.items()}
            Manifest.from_serving_parameters(stated, "server")

    return Fuzzed(target, [json.dumps(manifest.serving_parameters()).encode()], of_json)


def open_checkpoint(materials: Materials) -> Fuzzed:
    """A checkpoint for release, a safetensors file."""
    import torch

    from lostgan_train.networks.checkpoint import load_checkpoint

    path = materials.file("checkpoint/input.safetensors")

    def target(data: bytes) -> None:
        path.write_bytes(data)
        loaded = load_checkpoint(path)
        state = loaded.generator.state_dict().values()
        whole(all(torch.isfinite(value).all() for value in state), "weights that are not finite")

    return Fuzzed(target, [materials.checkpoint.read_bytes()], either(of_bytes, of_safetensors))


def open_onnx(materials: Materials) -> Fuzzed:
    """model.onnx by itself, opened and run once."""
    from lostgan_serve.runners.onnxrt import OnnxRunner

    path = materials.file("onnx/input.onnx")

    def target(data: bytes) -> None:
        path.write_bytes(data)
        runner = OnnxRunner(path, threads=1, providers=["CPUExecutionProvider"])
        try:
            layout = Layout.parse({"objects": [{"label": next(iter(runner.manifest.vocabulary)), "box": [0, 0, 1, 1]}]})
            check_pictures(runner.run(encode([layout], runner.manifest), OUTPUT_NAMES), runner.manifest, 1)
        finally:
            runner.close()

    return Fuzzed(target, [materials.onnx.read_bytes()], either(of_bytes, of_onnx))


def check_pictures(outputs: Mapping[str, Array], manifest: Manifest, batch: int) -> None:
    """The contract's outputs have their dtypes and shapes."""
    for spec in output_specs(manifest.slots, manifest.resolution):
        array = outputs[spec.name]
        whole(array.shape == (batch, *spec.dims), f"{spec.name} of another shape")
        whole(array.dtype == spec.dtype, f"{spec.name} of another dtype")


def open_sources(materials: Materials) -> Fuzzed:
    """A file that `synthesize` takes layouts from: layouts or annotations of a COCO-format set."""
    from lostgan_serve.synthesize.sources import read_sources

    path, manifest = materials.file("sources/input.json"), _a_manifest()

    def target(data: bytes) -> None:
        path.write_bytes(data)
        for layout in read_sources([path], manifest.capacity).layouts:
            check_layout(layout)
            check_tensors(encode([layout], manifest))

    return Fuzzed(target, [*_layout_seeds()[:2], coco_of_scenes()], TEXT)


def coco_of_scenes(count: int = 3) -> bytes:
    """A set of a few images in COCO's format with the scenes' categories."""
    labels = Vocabulary.built_in("scenes").labels
    images = [{"id": key, "file_name": f"{key:04}.png", "width": 100, "height": 100} for key in range(count)]
    annotations = [
        {
            "id": 10 * key + n,
            "image_id": key,
            "category_id": 1 + n,
            "bbox": [n, 5, 60, 40.5],
            "area": 2430,
            "iscrowd": 0,
        }
        for key in range(count)
        for n in range(4)
    ]
    categories = [{"id": key, "name": name, "supercategory": "x"} for key, name in enumerate(labels) if key]
    value: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(value).encode()


def _a_manifest() -> Manifest:
    """Of a model that takes any of the examples."""
    return Manifest(
        variant="v1-64",
        resolution=64,
        slots=12,
        max_batch=8,
        vocabulary=Vocabulary.built_in("scenes"),
        weights="untrained",
    )


def _layout_seeds() -> list[bytes]:
    lines = b'{"objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}\n' * 2
    styles = {
        "canvas": [640, 480],
        "style": {"from": 3, "to": 9, "mix": 0.4, "path": "spherical"},
        "objects": [
            {"label": "sky", "box": [0, 0, 640, 250], "style": {"code": [0.25] * 128}},
            {"label": "tree", "box": [10, 20, 300, 200.5], "id": "oak", "seed": 12},
        ],
    }
    return [*(path.read_bytes() for path in EXAMPLES), lines, json.dumps(styles).encode()]
