"""Proof that an answer is that of its request: a model in Triton's Python backend gives back a digest of each layout
that it generated, and the gateway compares.

Triton's Python backend passes requests and answers to another process, through queues of shared memory. Where it has
given up waiting for an answer (the clock was set, or the process stood still), it takes that answer for the next
request's, and so on with all that follow.
"""

from __future__ import annotations

import zlib

import numpy as np

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors, TensorSpec

DIGEST = TensorSpec("digest", np.dtype(np.uint32), (1,))
"""The output of a model in the Python backend that no other has."""


def digests(tensors: Tensors) -> Array:
    """CRC-32 of each layout's inputs in a batch of the contract's: [B, 1] uint32."""
    batch = len(tensors[INPUT_NAMES[0]])
    found = [0] * batch
    for name in INPUT_NAMES:
        for row, values in enumerate(np.ascontiguousarray(tensors[name])):
            found[row] = zlib.crc32(values, found[row])
    return np.array(found, DIGEST.dtype).reshape(batch, 1)
