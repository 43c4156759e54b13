"""How much arithmetic a graph is, and how much of it the machine could do: what a speed is a share of."""

from __future__ import annotations

import math
import time
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto


def multiply_adds(path: Path, batch: int = 1) -> int:
    """Multiply-adds of an ONNX file's convolutions and matrix products for `batch` images."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = batch
    del model.graph.value_info[:]  # they name the batch, too
    shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))
    return sum(_multiply_adds(node, shapes) for node in model.graph.node)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return shapes | {weight.name: tuple(weight.dims) for weight in model.graph.initializer}


def _multiply_adds(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type not in {"Conv", "MatMul", "Gemm"}:
        return 0
    output, second = shapes[node.output[0]], shapes[node.input[1]]
    if node.op_type == "Conv":  # outputs, each a sum over a weight of [inputs, height, width]
        return math.prod(output) * math.prod(second[1:])
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return math.prod(output) * (second[-1] if transposed else second[-2])


def matmul_peak(precision: str, seconds: float = 1.0) -> float:
    """Multiply-adds per second of torch's own product of large square matrices, a measure of what the machine can do;
    on AMD CPUs other libraries' convolutions can be faster still.

    precision: "fp32", "fp16" or "bf16". The best of the products that fit into `seconds`.
    """
    import torch

    from lostgan_export.fused import DTYPES

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return side**3 / best
