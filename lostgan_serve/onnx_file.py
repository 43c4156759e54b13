"""Facts of an ONNX file, read by the wire format of protocol buffers alone, before any library loads the file.

Refused are files that a library would trust too far: values in other files, operators of somebody else's, sizes that
the file does not hold, and weights that are not finite.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lostgan_serve.errors import ModelError

MAX_BYTES = 2**31 - 1
"""The most bytes that a protocol buffer, and so an ONNX file, may have."""

DOMAINS = ("", "ai.onnx")
"""Domains of the operators that a model may use: those of the ONNX standard."""

_MOST_FIELDS = 200_000  # twenty times as many as export writes
_MOST_GRAPHS_WITHIN = 8  # a graph within an operator within a graph; export writes one
_MOST_DIMENSIONS = 16

_METADATA, _GRAPH, _FUNCTIONS = 14, 7, 25  # of a ModelProto
_NODES, _INITIALIZERS, _SPARSE = 1, 5, 15  # of a GraphProto
_ATTRIBUTES, _DOMAIN, _OP = 5, 7, 4  # of a NodeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS = 5, 6, 10, 11, 22, 23  # of an AttributeProto
_DIMS, _TYPE, _NAME, _RAW, _ELSEWHERE, _LOCATION = 1, 2, 8, 9, 13, 14  # of a TensorProto
_FLOATS, _INTS_32, _DOUBLES = 4, 5, 10
_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16  # types of tensors
_DTYPES = {_FLOAT: "<f4", _FLOAT16: "<f2", _DOUBLE: "<f8", _BFLOAT16: "<u2"}


_Field = tuple[int, int | memoryview]


def read_metadata(data: bytes, path: Path) -> dict[str, str]:
    """The texts in a file's metadata_props, by their keys.

    data: the file's bytes. path: for messages. Raises ModelError where the file is none, or is not one to be loaded.
    """
    return _Reader(path).metadata(memoryview(data))


class _DamagedError(Exception):
    """Bytes that are no protocol buffer."""


class _Reader:
    """Reads one file. It has a number of fields to read, so that no file takes for ever."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, _MOST_FIELDS

    def metadata(self, model: memoryview) -> dict[str, str]:
        """See `read_metadata`."""
        found = {}
        try:
            for number, value in self._fields(model):
                if number == _METADATA and isinstance(value, memoryview):
                    entry = list(self._fields(value))
                    found[_text(entry, 1)] = _text(entry, 2)
                elif number == _GRAPH and isinstance(value, memoryview):
                    self._check_graph(value, 0)
                elif number == _FUNCTIONS:
                    raise self._refused("it has functions of its own, which no model of lostgan-serve has")
        except _DamagedError as error:
            raise ModelError(f"{self._path}: truncated or not an ONNX model; export it again ({error})") from None
        return found

    def _check_graph(self, graph: memoryview, depth: int) -> None:
        if depth > _MOST_GRAPHS_WITHIN:
            raise self._refused(f"it has graphs within graphs, over {_MOST_GRAPHS_WITHIN} deep")
        for number, value in self._fields(graph):
            if number == _NODES and isinstance(value, memoryview):
                self._check_node(value, depth)
            elif number == _INITIALIZERS and isinstance(value, memoryview):
                self._check_tensor(value)
            elif number == _SPARSE:
                raise self._refused("it has a sparse tensor, as no model of lostgan-serve has")

    def _check_node(self, node: memoryview, depth: int) -> None:
        fields = list(self._fields(node))
        if (domain := _text(fields, _DOMAIN)) not in DOMAINS:
            operator = f"{_quoted(_text(fields, _OP))} of the domain {_quoted(domain)}"
            raise self._refused(f"its operator {operator} is none of the ONNX standard")
        for number, attribute in fields:
            if number == _ATTRIBUTES and isinstance(attribute, memoryview):
                self._check_attribute(attribute, depth)

    def _check_attribute(self, attribute: memoryview, depth: int) -> None:
        fields = list(self._fields(attribute))
        if sum(number == _TENSOR for number, _ in fields) > 1:
            raise self._refused("it has parts of a tensor in several places")
        for number, value in fields:
            if number in (_TENSOR, _TENSORS) and isinstance(value, memoryview):
                self._check_tensor(value)
            elif number in (_SUBGRAPH, _SUBGRAPHS) and isinstance(value, memoryview):
                self._check_graph(value, depth + 1)
            elif number in (_SPARSE_TENSOR, _SPARSE_TENSORS):
                raise self._refused("it has a sparse tensor, as no model of lostgan-serve has")

    def _check_tensor(self, tensor: memoryview) -> None:
        fields = list(self._fields(tensor))
        name = _quoted(_text(fields, _NAME))
        if _number(fields, _LOCATION) or any(number == _ELSEWHERE for number, _ in fields):
            raise self._refused(f"the values of its tensor {name} are in another file")
        dims = [size for number, value in fields if number == _DIMS for size in _integers(value)]
        # the smallest values take half a byte
        if len(dims) > _MOST_DIMENSIONS or min(dims, default=0) < 0 or math.prod(dims) > 2 * len(tensor):
            raise self._refused(f"its tensor {name} has not as many values as its shape says, {_quoted(dims)}")
        if not all(_are_finite(number, value, _number(fields, _TYPE)) for number, value in fields):
            raise self._refused(f"its tensor {name} holds values that are not finite")

    def _fields(self, message: memoryview) -> Iterator[_Field]:
        """The fields of a message: their numbers, and the number or the bytes that each holds. Raises _DamagedError."""
        position = 0
        while position < len(message):
            self._left -= 1
            if self._left < 0:
                raise self._refused(f"it has over {_MOST_FIELDS:,} parts")
            tag, position = _varint(message, position)
            kind, size = tag & 7, 0
            if kind == 0:
                value, position = _varint(message, position)
                yield tag >> 3, value
                continue
            if kind == 2:
                size, position = _varint(message, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise _DamagedError(f"a field of the unknown kind {kind}")
            if size > len(message) - position:
                raise _DamagedError("it ends within a field")
            yield tag >> 3, message[position : position + size]
            position += size

    def _refused(self, reason: str) -> ModelError:
        return ModelError(f"{self._path}: {reason}; export it again")


def _are_finite(number: int, value: int | memoryview, kind: int) -> bool:
    """Whether the values in a field of a tensor of some type are finite. Export writes 16 bits as bytes alone: as
    integers they count for not finite, too."""
    if number == _INTS_32:
        return kind not in (_FLOAT16, _BFLOAT16)
    kind = {_FLOATS: _FLOAT, _DOUBLES: _DOUBLE, _RAW: kind}.get(number, 0)
    if isinstance(value, int) or kind not in _DTYPES:
        return True
    size = np.dtype(_DTYPES[kind]).itemsize
    values = np.frombuffer(value[: len(value) // size * size], _DTYPES[kind])
    if kind == _BFLOAT16:
        return bool(((values & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of as many bytes as it needs, and the position behind it. Raises _DamagedError."""
    value = shift = 0
    for byte in message[position : position + 10]:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            return value, position
    raise _DamagedError("it ends within a number, or has one that is too long")


def _integers(field: int | memoryview) -> list[int]:
    """The signed integers of a repeated field: one by itself, or several together, of which only so many are read as a
    tensor has dimensions. Raises _DamagedError."""
    if isinstance(field, int):
        return [field - (1 << 64) if field >> 63 else field]
    found: list[int] = []
    position = 0
    while position < len(field) and len(found) <= _MOST_DIMENSIONS:
        value, position = _varint(field, position)
        found += _integers(value)
    return found


def _text(fields: Sequence[_Field], number: int) -> str:
    """The text of a field. As in every reader, the last one of the right kind counts; "" where there is none."""
    found = [value for one, value in fields if one == number and isinstance(value, memoryview)]
    return str(found[-1], "utf-8", "replace") if found else ""


def _number(fields: Sequence[_Field], number: int) -> int:
    """The number of a field, likewise; 0 where there is none."""
    return next((value for one, value in reversed(fields) if one == number and isinstance(value, int)), 0)


def _quoted(value: object) -> str:
    """As Python writes it, in one line of a few words at most."""
    return reprlib.repr(value)
