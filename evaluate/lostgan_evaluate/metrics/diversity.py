"""Diversity Score (section 3, table 1): the perceptual distance of two styles of a layout.

The paper's is LPIPS with AlexNet (Zhang et al., 2018), whose linear layers come with the package lpips and whose
AlexNet is a file of weights. Beside it there is a distance that any machine can measure, built alike from
EfficientNet-Lite0's maps but not calibrated by people's judgements: it has a name of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import lpips
import numpy as np
import torch
from torch import Tensor

from lostgan_evaluate.features.lite import LiteExtractor
from lostgan_evaluate.images import Reading, read_all
from lostgan_evaluate.metrics import Metric, needs_styles
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.subject import Sample, Subject, Tools, whole
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.errors import EvaluationError
from lostgan_train.networks.runner import inference_device

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches of images, [B, 3, R, R] uint8 each -> their distances [B]."""

_BATCH = 16
_SIDE_PX = 224  # as EfficientNet-Lite0 was trained


class _Maps(Protocol):
    def maps(self, images: Tensor) -> list[Tensor]: ...


def lpips_distance(weights: WeightFiles) -> Distance:
    """LPIPS 0.1 with AlexNet. Raises EvaluationError where its weights cannot be used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by an old argument
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    state = weights.state("alexnet")
    for part in (network.net.slice1, network.net.slice2, network.net.slice3, network.net.slice4, network.net.slice5):
        for name, layer in part.named_children():  # a layer's name is its place in torchvision's AlexNet
            own = {key: state.get(f"features.{name}.{key}") for key in layer.state_dict()}
            if any(value is None or value.shape != layer.state_dict()[key].shape for key, value in own.items()):
                raise EvaluationError(f"{weights.path('alexnet')}: not the weights of AlexNet; fetch it again")
            layer.load_state_dict(own)
    network.eval().requires_grad_(False).to(inference_device())

    def distance(a: Tensor, b: Tensor) -> Tensor:
        first, second = (images.to(inference_device()).float() / 127.5 - 1 for images in (a, b))
        found: Tensor = network(first, second).flatten().cpu()
        return found

    return distance


def maps_distance(extractor: _Maps) -> Distance:
    """Distance in a network's maps as LPIPS has it, with equal weights in place of learnt ones: maps are scaled to
    length 1 at each place, and squared differences are summed over channels and averaged over places and stages."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        stages = zip(extractor.maps(a), extractor.maps(b), strict=True)
        terms = [
            (torch.nn.functional.normalize(x) - torch.nn.functional.normalize(y)).square().sum(1).mean((1, 2))
            for x, y in stages
        ]
        return torch.stack(terms).mean(0).cpu()

    return distance


def _measure(subject: Subject, tools: Tools) -> Measured:
    reading = subject.protocol.reading
    pairs = [(styles[0], styles[1]) for styles in subject.styles()]
    scores = [_score("ds_efficientnet_lite0", maps_distance(LiteExtractor()), pairs, reading, _SIDE_PX, tools)]
    if tools.weights.why_not("alexnet") is None:
        scores.insert(0, _score("ds", lpips_distance(tools.weights), pairs, reading, reading.side_px, tools))
    else:
        tools.progress.note(f"note: no ds (LPIPS): {tools.weights.why_not('alexnet')}")
    return Measured(tuple(scores))


def _score(
    name: str, distance: Distance, pairs: Sequence[tuple[Sample, Sample]], reading: Reading, side_px: int, tools: Tools
) -> Score:
    found: list[float] = []
    with tools.progress.count(f"diversity, {name}", len(pairs)) as advance, torch.inference_mode():
        for start in range(0, len(pairs), _BATCH):
            first, second = (
                read_all(whole([pair[style] for pair in pairs[start : start + _BATCH]]), reading, side_px)
                for style in (0, 1)
            )
            found += distance(first, second).tolist()
            advance(len(found), "")
    facts = {
        "layouts": len(pairs),
        "pairs": "the first two styles of each layout",
        "spread": "over layouts",
        "side_px": side_px,
    }
    return Score(name, float(np.mean(found)), "higher", float(np.std(found)), facts=facts)


METRIC = Metric("ds", "Diversity Score: the perceptual distance of two styles of a layout", needs_styles, _measure)
