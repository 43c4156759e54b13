"""EfficientNet-Lite0 (ImageNet, Apache-2.0), whose weights any machine can have: they are a package."""

from __future__ import annotations

from importlib import metadata

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from lostgan_evaluate.weights import PACKAGE
from lostgan_train.networks.runner import inference_device
from lostgan_train.perceptual import efficientnet_lite0


class LiteExtractor:
    """1,280 features, the mean of the last maps, and 1,000 class scores.

    Raises MissingExtraError without the package.
    """

    name, side_px, batch = "efficientnet-lite0", 224, 32

    def __init__(self) -> None:
        network = efficientnet_lite0()
        # batch norms folded into convolutions: 1.5 times as fast on a CPU
        for name in ("stem", "head"):
            setattr(network, name, fuse(getattr(network, name)))
        network.stages = nn.ModuleList(fuse(stage) for stage in network.stages)
        self._network = network.to(inference_device()).to(memory_format=torch.channels_last)
        self.version = metadata.version(PACKAGE)

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """See `Extractor.features`."""
        pooled = self._network.pooled(_scaled(images))
        return {"features": pooled.cpu(), "logits": self._network.classes(pooled).cpu()}

    @torch.inference_mode()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the stem and of each stage: [B, C, H, W] each."""
        return list(self._network.maps(_scaled(images)))


def _scaled(images: Tensor) -> Tensor:
    """Levels as the network was trained on."""
    return ((images.to(inference_device()).float() - 127) / 128).contiguous(memory_format=torch.channels_last)
