"""The contract's tensors: as Triton's Python backend gets them, and as a runner does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from conftest import EXAMPLES
from fuzz.mutations import of_json
from fuzz.targets import Fuzzed, Materials, check_pictures, whole
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, Array, Tensors, input_specs
from lostgan_serve.encoding import encode
from lostgan_serve.errors import RequestError
from lostgan_serve.layout import Layout
from lostgan_serve.runners.onnxrt import OnnxRunner, open_session

_MOST_VALUES = 100_000


def open_runner_tensors(materials: Materials) -> Fuzzed:
    """Tensors of any names, dtypes and shapes, given to a runner."""
    runner = OnnxRunner(materials.model, threads=1, providers=["CPUExecutionProvider"])

    def target(data: bytes) -> None:
        tensors = _tensors_in(data)
        if tensors is None or not set(INPUT_NAMES).issubset(tensors):
            return
        outputs = runner.run(tensors, OUTPUT_NAMES)
        check_pictures(outputs, runner.manifest, len(tensors["labels"]))

    return Fuzzed(target, _seeds(runner), of_json)


def open_backend_tensors(materials: Materials) -> Fuzzed:
    """Tensors of the right dtypes and shapes, as Triton sees to, beside a valid request in the same batch."""
    from lostgan_serve.triton.embedded import TritonPythonModel

    sys.modules["triton_python_backend_utils"] = _backend_utils()
    model = TritonPythonModel()
    model.initialize({"model_repository": str(materials.model), "model_version": "1"})
    runner = OnnxRunner(materials.model, threads=1, providers=["CPUExecutionProvider"])
    mate = encode([Layout.load(EXAMPLES[0])], runner.manifest)
    expected, is_finite = runner.run(mate, OUTPUT_NAMES), _Finite(materials)

    def target(data: bytes) -> None:
        found = _tensors_in(data)
        if found is None:
            return
        tensors = _fitted(found, runner.manifest.slots)
        answer, beside = model.execute([_Request(tensors), _Request(mate)])
        whole(beside.error is None, "a valid request is refused beside another")
        for name, array in _arrays(beside).items():
            whole(np.array_equal(array, expected[name]), f"{name} of a batch mate differ")
        if answer.error is not None:
            raise RequestError(str(answer.error))
        check_pictures(_arrays(answer), runner.manifest, 1)
        whole(is_finite(tensors), "a picture whose values are not finite")

    return Fuzzed(target, _seeds(runner), of_json)


class _Finite:
    """Says whether a model's outputs are finite before they become bytes, where NaN would be a number, too."""

    def __init__(self, materials: Materials) -> None:
        import onnx

        model = onnx.load(materials.onnx)
        producers = {name: node for node in model.graph.node for name in node.output}
        casts = [producers[name] for name in ("image", "masks")]
        self._names = [cast.input[0] for cast in casts]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in self._names)
        path = materials.file("finite/model.onnx")
        onnx.save(model, path)
        self._session = open_session(path, 1, ["CPUExecutionProvider"])

    def __call__(self, tensors: Tensors) -> bool:
        arrays = self._session.run(self._names, {name: tensors[name] for name in INPUT_NAMES})
        return all(np.isfinite(array).all() for array in arrays)


def _seeds(runner: OnnxRunner) -> list[bytes]:
    """Encoded examples as JSON: of codes their first values alone, which are repeated to the tensor's size."""
    values = []
    for path in EXAMPLES:
        tensors = encode([Layout.load(path)], runner.manifest)
        values.append(
            {
                name: {
                    "dtype": array.dtype.str,
                    "shape": list(array.shape),
                    "values": array.ravel()[: array.size if name in ("labels", "boxes") else 9].tolist(),
                }
                for name, array in tensors.items()
            }
        )
    return [json.dumps(value).encode() for value in values]


def _tensors_in(data: bytes) -> dict[str, Array] | None:
    """The tensors that a JSON text tells of; None where numpy has no such tensors, which nobody can send then."""
    try:
        value = json.loads(data)
        return {str(name): _array(told) for name, told in value.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, SyntaxError):
        return None


def _array(told: Any) -> Array:
    shape = [int(side) for side in told["shape"]]
    if np.prod([float(side) for side in shape]) > _MOST_VALUES or min(shape, default=0) < 0:
        raise ValueError("too large for a test")
    with np.errstate(all="ignore"):  # a value beyond a dtype is another one there
        return np.resize(np.asarray(told["values"]).astype(np.dtype(told["dtype"])), shape)


def _fitted(found: Tensors, slots: int) -> dict[str, Array]:
    """The tensors as one layout's, whatever their shapes are; those that are missing are empty slots'."""
    fitted = {}
    for spec in input_specs(slots):
        try:
            with np.errstate(all="ignore"):
                values = np.asarray(found.get(spec.name, 0)).astype(spec.dtype)
        except (ValueError, TypeError, OverflowError):
            values = np.zeros(1, spec.dtype)
        fitted[spec.name] = np.resize(values if values.size else np.zeros(1, spec.dtype), (1, *spec.dims))
    return fitted


# What Triton gives the backend: the module exists inside the server's process only.


@dataclass(frozen=True)
class _Request:
    tensors: Tensors

    def requested_output_names(self) -> list[str]:
        return list(OUTPUT_NAMES)


@dataclass(frozen=True)
class _Tensor:
    name: str
    array: Array

    def as_numpy(self) -> Array:
        return self.array


@dataclass(frozen=True)
class _Response:
    output_tensors: Sequence[_Tensor] = ()
    error: Exception | None = None


@dataclass
class _TritonError(Exception):
    message: str
    code: int = 0
    INVALID_ARG: int = field(default=3, repr=False)

    def __str__(self) -> str:
        return self.message


class _Logger:
    @staticmethod
    def log_info(line: str) -> None:
        """Write nothing."""


def _backend_utils() -> ModuleType:
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.InferenceResponse, utils.TritonError, utils.Logger = _Tensor, _Response, _TritonError, _Logger
    utils.get_input_tensor_by_name = lambda request, name: _Tensor(name, request.tensors[name])
    return utils  # type: ignore[no-any-return]


def _arrays(response: _Response) -> dict[str, Array]:
    return {tensor.name: tensor.array for tensor in response.output_tensors}
