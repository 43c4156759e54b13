"""Parity check: the exported model generates the same as the PyTorch generator, or it is not published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lostgan_export.fused import FusedGenerator
from lostgan_serve.contract import INPUT_NAMES, NO_OBJECT, OUTPUT_NAMES, Array, Tensors
from lostgan_serve.encoding import encode
from lostgan_serve.errors import ParityError
from lostgan_serve.layout import Box, Layout, LayoutObject
from lostgan_serve.manifest import Manifest, Parity, Precision
from lostgan_serve.runners import Runner
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.openvino import OpenVinoRunner, computes_bf16
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.generator import Generator
from lostgan_train.networks.layers import resize

IMAGE_TOLERANCE = 2
"""Levels of 255 at the worst of millions of values. How many may be off by one, which is rounding, says the floor."""

MASKS_TOLERANCE = 1

OBJECT_MAP_TOLERANCE = 0.005
"""Share of pixels: where two masks are equal but for their last digits, either may own the pixel."""

PSNR_FLOORS_DB: dict[Precision, float] = {"fp32": 70.0, "fp16": 50.0, "bf16": 40.0}
"""Floors of the images' PSNR: in fp32 one value in 150 may be off by a level. The others have no tolerances besides."""

_MOST_PSNR_DB = 100.0

_Drawing = Sequence[tuple[str, Box]]

_DRAWINGS: Sequence[_Drawing] = (
    (  # a shore
        ("sky", (0.0, 0.0, 1.0, 0.45)),
        ("sea", (0.0, 0.42, 1.0, 0.3)),
        ("sand", (0.0, 0.66, 1.0, 0.34)),
        ("person", (0.38, 0.4, 0.16, 0.48)),
        ("boat", (0.66, 0.38, 0.22, 0.14)),
        ("bird", (0.12, 0.1, 0.07, 0.05)),
    ),
    (("tree", (0.2, 0.1, 0.55, 0.85)),),  # one thing alone, and bare canvas around it
    (  # a street, objects over one another, some at the very edge
        ("road", (0.0, 0.6, 1.0, 0.4)),
        ("house", (0.05, 0.15, 0.4, 0.55)),
        ("house", (0.4, 0.2, 0.35, 0.5)),
        ("car", (0.1, 0.62, 0.35, 0.22)),
        ("person", (0.93, 0.5, 0.07, 0.4)),
    ),
    # a sheet of small things: as many as the model has room for
    tuple(
        (("flower", "rock", "bush", "cloud")[k % 4], (k * 0.61803 % 0.84, k * 0.7549 % 0.84, 0.16, 0.04 + k % 5 * 0.03))
        for k in range(254)
    ),
)


def sample_layouts(manifest: Manifest) -> list[Layout]:
    """Make a few layouts as a person would draw them, in the model's vocabulary and with no more objects than fit."""
    return [
        Layout(
            tuple(
                LayoutObject(_known(label, index, manifest.vocabulary), box, f"{label}-{index}")
                for index, (label, box) in enumerate(drawing[: manifest.capacity])
            ),
            seed=seed,
        )
        for seed, drawing in enumerate(_DRAWINGS)
    ]


def open_exported(model: Path, fused: FusedGenerator, manifest: Manifest) -> tuple[Runner, str]:
    """Open an exported file in the runtime to be compared; returns the runner and its name.

    ONNX Runtime has no bf16 for CPUs: in its place comes OpenVINO, if that and the CPU have it, or else PyTorch with
    the fused graph.
    """
    if manifest.precision != "bf16":
        return OnnxRunner(model), "ONNX Runtime"
    if computes_bf16():
        return OpenVinoRunner(model), "OpenVINO"
    return FusedRunner(fused, manifest), "PyTorch"


def measure(runner: Runner, generator: Generator, runtime: str = "ONNX Runtime") -> Parity:
    """Compare a runner with the unfused generator on `sample_layouts`: one by itself, the others as one batch.

    The generator refines masks in the stages that the runner's manifest names. It generates one layout at a time, to
    save memory. runtime: the runner's name, for the record. Raises ParityError where the generator's own output is not
    finite.
    """
    layouts = sample_layouts(runner.manifest)
    differences: dict[str, list[Array]] = {name: [] for name in OUTPUT_NAMES}
    for batch in (layouts[:1], layouts[1:]):
        tensors = encode(batch, runner.manifest)
        outputs = runner.run(tensors, OUTPUT_NAMES)
        for row in range(len(batch)):
            own = {name: tensors[name][row : row + 1] for name in INPUT_NAMES}
            expected = _expected(generator, own, runner.manifest.mask_stages)
            for name, array in expected.items():
                differences[name].append(np.abs(outputs[name][row].astype(np.int16) - array))
    image, owner, masks = (np.stack(differences[name]) for name in OUTPUT_NAMES)
    error = float(np.square(image, dtype=np.float64).mean())
    return Parity(
        layouts=len(layouts),
        image_max=int(image.max()),
        image_mean=float(image.mean()),
        image_psnr_db=min(_MOST_PSNR_DB, 10 * math.log10(255**2 / error)) if error else _MOST_PSNR_DB,
        masks_max=int(masks.max()),
        masks_mean=float(masks.mean()),
        object_map_differs=float((owner > 0).mean()),
        runtime=runtime,
    )


class FusedRunner:
    """Runner of the fused graph in PyTorch, where no runtime for the exported file is at hand."""

    concurrency = 1

    def __init__(self, fused: FusedGenerator, manifest: Manifest) -> None:
        self.fused, self.manifest = fused, manifest

    def run(self, tensors: Tensors, outputs: Sequence[str] = OUTPUT_NAMES) -> dict[str, Array]:
        with torch.inference_mode():
            values = self.fused(*(torch.from_numpy(tensors[name]) for name in INPUT_NAMES))
        whole = dict(zip(OUTPUT_NAMES, values, strict=True))
        return {name: whole[name].numpy() for name in outputs}

    def close(self) -> None:
        pass


def describe(parity: Parity) -> list[str]:
    """Write a line for each output."""
    mean = f"{parity.image_mean:.2g} on average, PSNR {parity.image_psnr_db:.1f} dB in {parity.runtime}"
    return [
        f"image       differs by {parity.image_max} of 255 at most, {mean}",
        f"object_map  differs at {parity.object_map_differs:.2%} of the pixels",
        f"masks       differ by {parity.masks_max} of 255 at most, {parity.masks_mean:.2g} on average",
    ]


def check(parity: Parity, precision: Precision = "fp32") -> None:
    """Raise ParityError where a difference is larger than rounding, or a type of fewer digits, explains."""
    limits = [("object_map", parity.object_map_differs, OBJECT_MAP_TOLERANCE)]
    if precision == "fp32":
        limits += [("image", parity.image_max, IMAGE_TOLERANCE), ("masks", parity.masks_max, MASKS_TOLERANCE)]
    excesses = [f"{name} by {value:g} (tolerance {limit:g})" for name, value, limit in limits if value > limit]
    floor = PSNR_FLOORS_DB[precision]
    if parity.image_psnr_db is not None and parity.image_psnr_db < floor:
        excesses.append(f"image by a PSNR of {parity.image_psnr_db:.1f} dB (floor {floor:g} dB)")
    if excesses:
        raise ParityError(
            f"the exported model differs from the PyTorch generator: {', '.join(excesses)}; nothing was published; "
            "please report this, with the checkpoint's variant and the versions of torch and onnxruntime"
        )


def _known(label: str, index: int, vocabulary: Vocabulary) -> str:
    """Find the label in the vocabulary, or another in its place."""
    labels = list(vocabulary)
    return label if label in labels else labels[(7 * index + len(label)) % len(labels)]


def _expected(generator: Generator, tensors: Tensors, mask_stages: int | None) -> dict[str, Array]:
    """Compute the contract's outputs for one layout, without the batch dimension, as int16."""
    with torch.no_grad():
        output = generator(*(torch.from_numpy(tensors[name]) for name in INPUT_NAMES), mask_stages=mask_stages)
        masks = (resize(output.mask_final, generator.config.resolution)[0]).numpy()
        image = output.image[0].permute(1, 2, 0).numpy()
    if not (np.isfinite(image).all() and np.isfinite(masks).all()):
        raise ParityError(
            "the PyTorch generator itself generates values that are not finite, so there is nothing to compare with; "
            "its checkpoint is broken: take an earlier one, or fetch it again"
        )
    levels = np.rint(masks * 255)
    owner = np.where(levels.max(0) > 0, masks.argmax(0), NO_OBJECT)
    return {
        "image": np.rint((image + 1) * 127.5).astype(np.int16),
        "object_map": owner.astype(np.int16),
        "masks": levels.astype(np.int16),
    }
