"""Inference over HTTP, as KServe's protocol and Triton's extension for binary tensors have it, to gRPC and back.

Everything in a request is checked here: tritonserver sees messages that this module wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lostgan_serve.errors import require
from lostgan_serve.runners.triton.transport import triton_type
from lostgan_serve.web.asgi import RefusedError

JSON_SIZE = "Inference-Header-Content-Length"
"""Header with the length of the JSON that a message begins with, where binary tensors follow it."""

_DTYPES = {
    triton_type(dtype): dtype
    for dtype in map(np.dtype, ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))
}
_MOST_DIMS = 8
_MOST_JSON_NUMBERS = 2**22
_REQUEST_PARAMETERS = {"timeout": int, "priority": int}


def request_of(model: str, version: str, body: bytes, json_size: str | None) -> tuple[Any, dict[str, bool]]:
    """The message that a request stands for, and for each output that it names whether it is wanted in binary; ""
    stands for all others. json_size: the header's value. Raises RefusedError, which names the field."""
    size = len(body) if json_size is None else _json_size(json_size, len(body))
    document, rest = _document(body[:size]), memoryview(body)[size:]
    parameters = dict(_object(document.get("parameters", {}), "parameters"))
    binary = {"": _flag(parameters.pop("binary_data_output", False), "parameters.binary_data_output")}
    request = require("tritonclient.grpc", "server").service_pb2.ModelInferRequest(
        model_name=model, model_version=version, id=_text(document.get("id", ""), "id")
    )
    for name, value in parameters.items():
        if name not in _REQUEST_PARAMETERS or type(value) is not int or not 0 <= value < 2**63:
            raise RefusedError(
                400, f"parameters.{_shown(name)}: only timeout and priority are taken here, as whole numbers"
            )
        request.parameters[name].int64_param = value
    for number, item in enumerate(_list(document.get("inputs"), "inputs")):
        rest = _add_input(request, _object(item, f"inputs[{number}]"), f"inputs[{number}]", rest)
    if rest:
        raise RefusedError(400, f"{len(rest)} bytes follow the last tensor; see binary_data_size")
    for number, item in enumerate(_list(document.get("outputs", []), "outputs")):
        where = f"outputs[{number}]"
        output = _object(item, where)
        name = _text(output.get("name"), f"{where}.name")
        wanted = _object(output.get("parameters", {}), f"{where}.parameters")
        if unknown := set(wanted) - {"binary_data"}:
            raise RefusedError(400, f"{where}.parameters.{_shown(min(unknown))}: only binary_data is taken here")
        binary[name] = _flag(wanted.get("binary_data", binary[""]), f"{where}.parameters.binary_data")
        request.outputs.add(name=name)
    return request, binary


def response_of(response: Any, binary: Mapping[str, bool]) -> tuple[bytes, int | None]:
    """The body that stands for a ModelInferResponse, and the length of its JSON where binary tensors follow. Raises
    RefusedError for numbers that are too many for JSON."""
    outputs, tail = [], []
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary.get(output.name, binary[""]):
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            entry["data"] = _numbers(output, data)
        outputs.append(entry)
    document = {"model_name": response.model_name, "model_version": response.model_version, "outputs": outputs}
    if response.id:
        document["id"] = response.id
    head = json.dumps(document).encode()
    return b"".join([head, *tail]), len(head) if tail else None


def _numbers(output: Any, data: bytes) -> list[Any]:
    dtype = _DTYPES.get(output.datatype)
    if dtype is None or math.prod(output.shape) > _MOST_JSON_NUMBERS:
        raise RefusedError(400, f"outputs: {output.name} is too large for JSON; ask for it with binary_data true")
    return np.frombuffer(data, dtype).tolist()  # type: ignore[no-any-return]


def _json_size(value: str, length: int) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= length):
        raise RefusedError(400, f"{JSON_SIZE}: must be a number up to the body's {length} bytes")
    return int(value)


def _document(text: bytes) -> dict[str, Any]:
    try:
        return _object(json.loads(text), "the body")
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON ({type(error).__name__})") from error


def _add_input(request: Any, item: dict[str, Any], where: str, rest: memoryview) -> memoryview:
    """Add a tensor to the request. Returns what is left of the binary part."""
    name, datatype = _text(item.get("name"), f"{where}.name"), _text(item.get("datatype"), f"{where}.datatype")
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise RefusedError(400, f"{where}.datatype: must be one of {', '.join(_DTYPES)}")
    shape = _list(item.get("shape"), f"{where}.shape")
    if len(shape) > _MOST_DIMS or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise RefusedError(400, f"{where}.shape: must be up to {_MOST_DIMS} whole numbers, none below 0")
    parameters = _object(item.get("parameters", {}), f"{where}.parameters")
    if unknown := set(parameters) - {"binary_data_size"}:
        raise RefusedError(400, f"{where}.parameters.{_shown(min(unknown))}: only binary_data_size is taken here")
    wanted = math.prod(shape) * dtype.itemsize
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if type(size) is not int or size != wanted or size > len(rest):
            raise RefusedError(400, f"{where}: {datatype} {shape} takes {wanted} bytes, of which {len(rest)} are there")
        data, rest = bytes(rest[:size]), rest[size:]
    else:
        data = _array(item.get("data"), dtype, f"{where}.data")
        if len(data) != wanted:
            raise RefusedError(400, f"{where}.data: {len(data) // dtype.itemsize} numbers do not fill {shape}")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(data)
    return rest


def _array(data: Any, dtype: np.dtype[Any], where: str) -> bytes:
    """Numbers in lists, nested or not, as bytes."""
    wrong = RefusedError(400, f"{where}: must be numbers that fit {triton_type(dtype)}, in lists of equal lengths")
    try:
        found = np.asarray(_list(data, where))
        if found.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind] and found.size:
            raise wrong
        with np.errstate(over="ignore"):  # beyond FP32 is infinite, which the model refuses by name
            converted = found.astype(dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise wrong from error
    if dtype.kind != "f" and not np.array_equal(converted, found):
        raise wrong
    return converted.tobytes()


def _shown(name: str) -> str:
    """A name that a client chose, in a few printable characters."""
    return "".join(character if character.isprintable() else "?" for character in name[:40])


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{where}: must be an object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(400, f"{where}: must be a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 256 or not value.isprintable():
        raise RefusedError(400, f"{where}: must be text of up to 256 characters, all of them printable")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise RefusedError(400, f"{where}: must be true or false")
    return value
