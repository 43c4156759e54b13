"""A user's own classifier or detector, as an ONNX file, that says how well generated objects can be recognised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lostgan_serve.contract import Array
from lostgan_serve.errors import ModelError, RequestError
from lostgan_serve.runners.onnxrt import first_line, open_session
from lostgan_serve.synthesize.filters import overlap
from lostgan_serve.synthesize.labelling import LabelledObject
from lostgan_serve.vocabulary import Vocabulary

_FOUND_OVERLAP = 0.5


class OnnxScorer:
    """A model that takes RGB in [0, 1], float32, channels first.

    A classifier takes crops [N, 3, S, S] of drawn boxes and gives logits [N, labels]: a score is the softmax
    probability of the object's label. A detector takes one image [3, R, R] or [1, 3, R, R], and gives boxes [D, 4] (x1,
    y1, x2, y2 in px), labels [D] and scores [D], as torchvision's do: a score is the best of the detections with the
    object's label that overlap its box by half. Labels are the vocabulary's ids.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        """Raises ModelError for a file that is neither."""
        self._path, self._vocabulary = path, vocabulary
        self._session = open_session(path, 1, ["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._shape = inputs[0].name, inputs[0].shape
        self._detects = len(outputs) == 3
        side = self._shape[-1]
        if len(inputs) != 1 or len(outputs) not in (1, 3) or (not self._detects and not isinstance(side, int)):
            raise ModelError(
                f"{path}: no scorer; give a classifier with one input [N, 3, S, S] and one output, or a detector with "
                "three (boxes, labels, scores)"
            )

    def scores(self, image: Array, objects: Sequence[LabelledObject]) -> list[float]:
        """See `Scorer`. Raises RequestError where the model fails."""
        if not objects:
            return []
        ids = [self._vocabulary.id_of(item.label) for item in objects]
        if self._detects:
            return self._detected(image, objects, ids)
        logits = self._run(self._crops(image, objects))[0].astype(np.float64)
        if logits.ndim != 2 or logits.shape[1] <= max(ids):
            raise RequestError(f"{self._path}: gives {logits.shape} for {len(ids)} crops; it must give [N, labels]")
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return [float(row[label]) for row, label in zip(shares, ids, strict=True)]

    def _crops(self, image: Array, objects: Sequence[LabelledObject]) -> Array:
        side = self._shape[-1]
        picture = Image.fromarray(image)
        crops = []
        for item in objects:
            x, y, width, height = item.drawn_box
            crop = picture.resize((side, side), Image.Resampling.BILINEAR, (x, y, x + width, y + height))
            crops.append(_channels_first(np.asarray(crop)))
        return np.stack(crops)

    def _detected(self, image: Array, objects: Sequence[LabelledObject], ids: Sequence[int]) -> list[float]:
        whole = _channels_first(image)
        boxes, labels, found = self._run(whole[None] if len(self._shape) == 4 else whole)
        best = []
        for item, label in zip(objects, ids, strict=True):
            hits = [
                float(score)
                for (left, top, right, bottom), its, score in zip(
                    boxes.reshape(-1, 4), labels.ravel(), found.ravel(), strict=True
                )
                if its == label and overlap(item.drawn_box, (left, top, right - left, bottom - top)) >= _FOUND_OVERLAP
            ]
            best.append(max(hits, default=0.0))
        return best

    def _run(self, tensor: Array) -> list[Any]:
        try:
            return self._session.run(None, {self._input: tensor})  # type: ignore[no-any-return]
        except Exception as error:  # onnxruntime's errors share no base class
            raise RequestError(f"{self._path}: cannot score an image ({first_line(error)})") from error


def _channels_first(image: Array) -> Array:
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255)
