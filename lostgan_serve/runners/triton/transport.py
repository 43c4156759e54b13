"""Calls over either protocol: those that a runner makes, their faults, and the check of an answer's tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np

from lostgan_serve.contract import Array, Tensors, TensorSpec

CONNECT_S = 10.0
"""The longest wait for a connection, in seconds."""


class Kind(Enum):
    """Why a call has no answer."""

    AWAY = auto()  # nothing answers, or the server is starting or stopping
    CUT = auto()  # the connection ended in the middle of a call
    BUSY = auto()  # the server's queue is full
    LATE = auto()  # the call's time was up
    REFUSED = auto()  # the request is wrong
    UNLOADED = auto()  # the model is being loaded or unloaded, as while the server stops
    MISSING = auto()  # there is no such model
    FOREIGN = auto()  # Triton answers otherwise
    FAULTY = auto()  # the server fails at the request, or its answer breaks the contract


PASSING = frozenset({Kind.AWAY, Kind.CUT, Kind.BUSY, Kind.UNLOADED})
"""The same call may have an answer later."""


class CallError(Exception):
    """A call without an answer. text: the cause, one line fit for a terminal."""

    def __init__(self, kind: Kind, text: object) -> None:
        self.kind = kind
        self.text = "".join(c for c in str(text).strip().partition("\n")[0] if c.isprintable())[:300]
        super().__init__(self.text)


class Transport(Protocol):
    """Calls to one server, from any thread; each raises CallError."""

    def infer(self, model: str, tensors: Tensors, outputs: Sequence[TensorSpec], timeout_s: float) -> dict[str, Array]:
        """Outputs of a model; they keep the contract."""
        ...

    def parameters(self, model: str, timeout_s: float) -> dict[str, str]:
        """The parameters in a model's configuration."""
        ...

    def batches(self, timeout_s: float) -> dict[str, dict[int, int]]:
        """How many batches of each size every model of the server has computed."""
        ...

    def close(self) -> None: ...


def triton_type(dtype: np.dtype[Any]) -> str:
    """Triton's name of a dtype, such as FP32."""
    if dtype.kind == "b":
        return "BOOL"
    return f"{ {'i': 'INT', 'u': 'UINT', 'f': 'FP'}.get(dtype.kind, dtype.kind) }{8 * dtype.itemsize}"


def checked(spec: TensorSpec, batch: int, datatype: object, shape: object, data: memoryview | bytes) -> Array:
    """An output of a model, as a view of `data`. Raises CallError where it is not what the contract says."""
    wanted = [batch, *spec.dims]
    if datatype != triton_type(spec.dtype) or shape != wanted or len(data) != math.prod(wanted) * spec.dtype.itemsize:
        raise CallError(
            Kind.FAULTY,
            f"its output {spec.name} is {datatype} {shape} in {len(data)} bytes, "
            f"in place of {triton_type(spec.dtype)} {wanted}",
        )
    return np.frombuffer(data, spec.dtype).reshape(wanted)


def error_kind(text: str) -> Kind | None:
    """The kind of a fault that Triton tells of by words more clearly than by a status."""
    if "Exceeds maximum queue size" in text or "RST_STREAM with error code 7" in text:  # 7: too many calls at a time
        return Kind.BUSY
    if "Stub process" in text:  # the Python backend's, which is started again
        return Kind.AWAY
    if "http1.x server" in text:  # gRPC's words
        return Kind.FOREIGN
    if "has no available versions" in text or "is not at ready state" in text:
        return Kind.UNLOADED
    return None
