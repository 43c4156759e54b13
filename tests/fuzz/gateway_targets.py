"""Inference over HTTP and gRPC, as the gateway reads it before tritonserver sees anything of it."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from conftest import EXAMPLES
from fuzz.mutations import Seeds, of_bytes, of_json
from fuzz.targets import Fuzzed, Materials, whole
from lostgan_serve.encoding import encode
from lostgan_serve.errors import RequestError
from lostgan_serve.layout import Layout
from lostgan_serve.manifest import Manifest
from lostgan_serve.runners.triton.grpc_transport import infer_request
from lostgan_serve.runners.triton.transport import triton_type
from lostgan_serve.triton.digests import DIGEST
from lostgan_serve.triton.gateway.matching import Question
from lostgan_serve.triton.gateway.rest import request_of
from lostgan_serve.web.asgi import RefusedError


def open_gateway(materials: Materials) -> Fuzzed:
    """Bodies of inference requests; the first line is the header with the length of the JSON, or empty."""
    manifest = Manifest.from_json((materials.model / "1/manifest.json").read_bytes(), "manifest.json")
    sizes = {"BOOL": 1, "FP16": 2, "FP32": 4, "FP64": 8}
    sizes |= {f"{sign}INT{bits}": bits // 8 for sign in ("", "U") for bits in (8, 16, 32, 64)}

    def target(data: bytes) -> None:
        header, _, body = data.partition(b"\n")
        try:
            request, _ = request_of("model", "1", body, header.decode("latin-1") or None)
        except RefusedError as error:
            raise RequestError(str(error)) from error
        again = type(request).FromString(request.SerializeToString())
        whole(len(again.inputs) == len(again.raw_input_contents), "tensors without their bytes")
        for tensor, content in zip(again.inputs, again.raw_input_contents, strict=True):
            wanted = math.prod(tensor.shape) * sizes[tensor.datatype]
            whole(len(content) == wanted, f"{len(content)} bytes for {tensor.datatype} {list(tensor.shape)}")

    return Fuzzed(target, [_in_json(manifest), _in_binary(manifest)], _changed)


def open_messages(materials: Materials) -> Fuzzed:
    """Messages of gRPC that ask for an inference."""
    manifest = Manifest.from_json((materials.model / "1/manifest.json").read_bytes(), "manifest.json")

    def target(data: bytes) -> None:
        try:
            request = pb.ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise RequestError("no message") from error
        asked = pb.ModelInferRequest.FromString(Question(request).message)
        own = [output for output in asked.outputs if output.name != DIGEST.name]
        given = pb.ModelInferRequest.FromString(data)
        whole(own == [output for output in given.outputs if output.name != DIGEST.name], "other outputs")
        for one in (asked, given):
            del one.outputs[:]
        same = asked.SerializeToString(deterministic=True) == given.SerializeToString(deterministic=True)
        whole(same, "another request")

    tensors = _tensors(manifest)
    return Fuzzed(target, [infer_request(pb, "model", tensors, names).SerializeToString() for names in ([], ["image"])],
                  of_bytes)  # fmt: skip


def _tensors(manifest: Manifest) -> dict[str, np.ndarray[Any, Any]]:
    return encode([Layout.load(EXAMPLES[0])], manifest)


def _in_json(manifest: Manifest) -> bytes:
    inputs = [
        {"name": name, "datatype": triton_type(array.dtype), "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in _tensors(manifest).items()
    ]
    outputs = [{"name": "image", "parameters": {"binary_data": True}}, {"name": "masks"}]
    return b"\n" + json.dumps({"id": "7", "inputs": inputs, "outputs": outputs, "parameters": {"timeout": 9}}).encode()


def _in_binary(manifest: Manifest) -> bytes:
    tensors = _tensors(manifest)
    inputs = [
        {
            "name": name,
            "datatype": triton_type(array.dtype),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return b"%d\n" % len(head) + head + b"".join(array.tobytes() for array in tensors.values())


def _changed(random: Random, seeds: Seeds) -> bytes:
    """Changed bytes or, more often, changed JSON whose length is stated anew."""
    data = random.choice(seeds)
    if random.randrange(3) == 0:
        return of_bytes(random, [data])
    header, _, body = data.partition(b"\n")
    size = int(header or len(body))
    head = of_json(random, [body[:size]])
    return (b"%d" % len(head) if header else b"") + b"\n" + head + body[size:]
