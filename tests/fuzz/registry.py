"""The targets by their names."""

from __future__ import annotations

from fuzz.data_targets import open_coco, open_coco_stuff, open_visual_genome
from fuzz.editor_targets import open_requests
from fuzz.gateway_targets import open_gateway, open_messages
from fuzz.targets import (
    Opener,
    open_checkpoint,
    open_layouts,
    open_manifest,
    open_onnx,
    open_parameters,
    open_sources,
)
from fuzz.tensor_targets import open_backend_tensors, open_runner_tensors

TARGETS: dict[str, Opener] = {
    "layout": open_layouts,
    "sources": open_sources,
    "coco": open_coco,
    "coco-stuff": open_coco_stuff,
    "visual-genome": open_visual_genome,
    "manifest": open_manifest,
    "parameters": open_parameters,
    "backend-tensors": open_backend_tensors,
    "runner-tensors": open_runner_tensors,
    "gateway": open_gateway,
    "gateway-messages": open_messages,
    "editor": open_requests,
    "checkpoint": open_checkpoint,
    "onnx": open_onnx,
}
