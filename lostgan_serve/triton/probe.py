"""A layout that is generated again and again: a server is well that answers, and answers as it did at first."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lostgan_serve.contract import Array, empty_batch
from lostgan_serve.errors import require
from lostgan_serve.manifest import Manifest
from lostgan_serve.runners.triton.grpc_transport import infer_request

_EVERY_S, _SHARE = 3.0, 0.1
"""The pause between probes, and the share of a core's time that they may take where they are slow."""

_PATIENCE_S, _PATIENCE = 6.0, 8
"""How long an answer may take: so many seconds, and so many times as long as the first one."""

_ALIKE = 2.0
"""Levels of 255, on average, by which an answer may differ from the first: batches differ in their last digits."""

_STUCK = "gives no answers"


@dataclass
class _Model:
    """A model that is probed. first: its first answer. patience_s: see `_PATIENCE_S`. doubted: it failed last."""

    request: Any
    first: Array | None = None
    patience_s: float = 60.0
    doubted: bool = False


class Probe:
    """Probes the models of a server in a thread, until `close`. target: of gRPC. manifests: by model."""

    def __init__(self, target: str, manifests: Mapping[str, Manifest]) -> None:
        grpc, self._pb = require("grpc", "server"), require("tritonclient.grpc", "server").service_pb2
        stubs = require("tritonclient.grpc", "server").service_pb2_grpc
        self._error: Any = grpc.RpcError
        self._channel = grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)])
        self._stub: Any = stubs.GRPCInferenceServiceStub(self._channel)
        self._models = {name: _Model(self._request(name, manifest)) for name, manifest in manifests.items()}
        self._fault: str | None = None
        self._ended = threading.Event()
        self.taken_s: dict[str, float] = {}
        """How long the last answer of each model took, in seconds."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fault(self) -> str | None:
        """Describe what is wrong with a model; None while none is."""
        return self._fault

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._channel.close()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            pause_s = _EVERY_S
            for name, model in self._models.items():
                start = time.monotonic()
                reason = self._reason(name, model)
                pause_s = max(pause_s, (time.monotonic() - start) / _SHARE)
                if reason and not model.doubted and reason != _STUCK:
                    model.doubted, pause_s = True, 0.1  # one failure may pass, and one after it is a fault
                elif reason:
                    self._fault = f"the model {name} {reason}"
                else:
                    model.doubted = False

    def _reason(self, name: str, model: _Model) -> str | None:
        """Why an answer is not as it should be; None where it is."""
        done, start = self._generated(name), time.monotonic()
        try:
            answer = self._stub.ModelInfer(model.request, timeout=model.patience_s)
        except self._error as error:
            if error.code().name == "DEADLINE_EXCEEDED":
                busy = self._generated(name) > done
                return None if busy else _STUCK
            return f"fails ({error.details()})"
        except ValueError:  # the channel was closed meanwhile
            return None
        self.taken_s[name] = time.monotonic() - start
        if len(answer.raw_output_contents) != 1:
            return "answers without a picture"
        image = np.frombuffer(answer.raw_output_contents[0], np.uint8).astype(np.float32)
        if not image.any():
            return "answers with black pictures"
        if model.first is None:
            model.first, model.patience_s = image, max(_PATIENCE_S, _PATIENCE * self.taken_s[name])
        return "answers with other pictures than at first" if np.abs(image - model.first).mean() > _ALIKE else None

    def _generated(self, name: str) -> int:
        """How many layouts the model has generated."""
        try:
            answer = self._stub.ModelStatistics(self._pb.ModelStatisticsRequest(name=name), timeout=_PATIENCE_S)
        except (self._error, ValueError):
            return 0
        return sum(model.inference_count for model in answer.model_stats)

    def _request(self, name: str, manifest: Manifest) -> Any:
        """A request for the image of a layout that fills half of the canvas with each of its first two slots."""
        tensors = empty_batch(1, manifest.slots)
        labels = [number for number, label in enumerate(manifest.vocabulary.labels) if number and label]
        for slot in range(min(2, manifest.slots)):
            tensors["labels"][0, slot] = labels[slot]
            tensors["boxes"][0, slot] = (0, slot / 2, 1, 0.5)
        return infer_request(self._pb, name, tensors, ["image"])
