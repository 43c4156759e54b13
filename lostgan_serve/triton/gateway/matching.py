"""Requests for an inference, and their answers: each is held against the digests of the layouts that were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from lostgan_serve.contract import INPUT_NAMES, Array
from lostgan_serve.triton.digests import DIGEST, digests

_TYPED = {"INT64": ("int64_contents", np.int64), "FP32": ("fp32_contents", np.float32)}
"""Where a message has a tensor's numbers that are not in its raw bytes, by Triton's name of their dtype."""


class Question:
    """A request as it is sent to tritonserver: it asks for the digests, too. request: a ModelInferRequest."""

    def __init__(self, request: Any) -> None:
        self._digests = _digests_of(request)
        self._added = bool(request.outputs) and all(output.name != DIGEST.name for output in request.outputs)
        if self._added:
            request.outputs.add(name=DIGEST.name)
        self.message: bytes = request.SerializeToString()

    def is_answered_by(self, response: Any) -> bool:
        """Whether a ModelInferResponse is of this request. It loses the digests, unless the client asks for them."""
        place = next((i for i, output in enumerate(response.outputs) if output.name == DIGEST.name), None)
        found = None if place is None else response.raw_output_contents[place]
        if place is not None and self._added:
            del response.outputs[place], response.raw_output_contents[place]
        return self._digests is not None and found == self._digests.tobytes()


def _digests_of(request: Any) -> Array | None:
    """None where the request has not the tensors of the contract, which tritonserver refuses."""
    tensors = {}
    try:
        for number, item in enumerate(request.inputs):
            if request.raw_input_contents:
                data = request.raw_input_contents[number]
            else:
                field, dtype = _TYPED[item.datatype]
                data = np.array(getattr(item.contents, field), dtype).tobytes()
            tensors[item.name] = np.frombuffer(data, np.uint8).reshape(item.shape[0], -1)
    except (IndexError, KeyError, ValueError):
        return None
    sizes = [len(tensors.get(name, ())) for name in INPUT_NAMES]
    return digests(tensors) if min(sizes) == max(sizes) > 0 else None
