"""Export of a torch module to model.onnx: one file, weights inside, with nothing dynamic but the batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from lostgan_serve import __version__
from lostgan_serve.contract import BACKGROUND_BOX, INPUT_NAMES, OUTPUT_NAMES, empty_batch
from lostgan_serve.files import writing
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.runners.onnxrt import onnxruntime

OPSETS = {"fp32": 18, "fp16": 18, "bf16": 22}
"""Opset of each precision: the standard has convolutions of bf16 from 22 on. GridSample, another reason for a newer
one, is never used; see DESIGN, section 5."""

BATCH = "batch"


def export_onnx(module: nn.Module, manifest: Manifest, path: Path, outputs: Sequence[str] = OUTPUT_NAMES) -> None:
    """Write a module that takes the contract's inputs as an ONNX file, the manifest in its metadata.

    outputs: the names of what the module returns. Raises OutputError where `path` cannot be written.
    """
    example = empty_batch(2, manifest.slots)  # two: torch.export takes a size of 1 for a constant
    example["boxes"][:, 0] = BACKGROUND_BOX
    arguments = tuple(torch.from_numpy(example[name]) for name in INPUT_NAMES)
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSETS[manifest.precision],
            input_names=list(INPUT_NAMES),
            output_names=list(outputs),
            dynamic_shapes=[{0: torch.export.Dim(BATCH, min=1)} for _ in arguments],
            verbose=False,
        )
    assert program is not None  # it is None for the older exporter, which writes the file itself
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
    program.model.graph.metadata_props.clear()
    program.model.metadata_props[METADATA_KEY] = manifest.to_json()
    with writing(path):
        program.save(path, external_data=False)


def set_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest in an exported file. Raises OutputError."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    with writing(path):
        onnx.save(model, path)


def tool_versions() -> dict[str, str]:
    """List the versions of the programs that make a file, for its manifest."""
    return {
        "lostgan-serve": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime().__version__,
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence two remarks of torch's exporter: that torchvision, not needed here, is not installed; and that inputs
    share the name of their batch dimension, as they should."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*axis name: \w+ will not be used", category=UserWarning)
            yield
    finally:
        registration.setLevel(level)
