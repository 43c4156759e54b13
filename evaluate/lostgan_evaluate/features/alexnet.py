"""AlexNet (ImageNet), whose pool5 maps the paper compares nearest neighbours by (section 3.1.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import alexnet

from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.errors import EvaluationError
from lostgan_train.networks.runner import inference_device

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class AlexNetExtractor:
    """The maps after the last pooling, of images of 256 px: 256 x 7 x 7 = 12,544 features.

    Raises EvaluationError where the weights cannot be used.
    """

    name, side_px, batch = "alexnet", 256, 32

    def __init__(self, weights: WeightFiles) -> None:
        network = alexnet(weights=None)
        try:
            network.load_state_dict(weights.state("alexnet"))
        except RuntimeError as error:
            raise EvaluationError(f"{weights.path('alexnet')}: not the weights of AlexNet; fetch it again") from error
        self._maps = network.features.eval().requires_grad_(False).to(inference_device())
        self.version = weights.known["alexnet"].sha256
        self._mean, self._std = (
            torch.tensor(values, device=inference_device()).view(3, 1, 1) for values in (_MEAN, _STD)
        )

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """See `Extractor.features`."""
        x = (images.to(inference_device()).float() / 255 - self._mean) / self._std
        return {"features": self._maps(x).flatten(1).cpu()}
