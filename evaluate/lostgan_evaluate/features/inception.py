"""Inception V3 as FID, KID and the Inception Score are defined with, in torch-fidelity's translation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.files import scratch_folder
from lostgan_train.networks.runner import inference_device


class InceptionExtractor:
    """2,048 features and 1,008 class scores without bias, of images that it resizes as TensorFlow 1 did: without
    antialiasing. Raises EvaluationError where the weights cannot be used."""

    name, side_px, batch = "inception", None, 32

    def __init__(self, weights: WeightFiles) -> None:
        state = weights.state("inception")
        self.version = weights.known["inception"].sha256
        with scratch_folder() as folder:
            # torch-fidelity unpickles whatever its file holds: it is given one with these tensors alone
            torch.save(state, file := folder / "weights.pth")
            network = FeatureExtractorInceptionV3(
                self.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
            )
        self._network = network.to(inference_device())

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """See `Extractor.features`."""
        features, logits = self._network(images.to(inference_device()))
        return {"features": features.cpu(), "logits": logits.cpu()}
