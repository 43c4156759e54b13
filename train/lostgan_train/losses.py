"""The losses of section 2.2.5. B images, N judged objects, R resolution."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from lostgan_serve.errors import CheckpointError
from lostgan_train.networks.discriminator import Scores

IMAGE_WEIGHT = 0.1  # lambda of equations 11 and 13
PERCEPTUAL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_RELU_OUTPUTS = (2, 7, 12, 21, 30)  # ends of relu1_1, relu2_1, ... relu5_1 in torchvision's list of VGG19's layers
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def discriminator_loss(
    real: Scores, fake: Scores, weights: Tensor, image_weight: float = IMAGE_WEIGHT, object_weight: float = 1.0
) -> Tensor:
    """Equation 14 as a mean over images; weights: [B, O], the p_i of equation 15, 1 for annotated objects."""
    on_image = (1 - real.image).relu().mean() + (1 + fake.image).relu().mean()
    on_objects = _per_image((1 - real.objects).relu(), real, weights) + _per_image(
        (1 + fake.objects).relu(), fake, weights
    )
    return image_weight * on_image + object_weight * on_objects


def adversarial_loss(
    fake: Scores, weights: Tensor, image_weight: float = IMAGE_WEIGHT, object_weight: float = 1.0
) -> Tensor:
    """-P_D of equation 11 as a mean over images."""
    return -image_weight * fake.image.mean() - object_weight * _per_image(fake.objects, fake, weights)


def _per_image(values: Tensor, scores: Scores, weights: Tensor) -> Tensor:
    """Mean over images of the mean over each image's objects, every object weighed by its probability."""
    batch = len(scores.image)
    image = scores.slots[:, 0]
    counts = torch.bincount(image, minlength=batch)[image].to(values.dtype)
    own = weights[image, scores.slots[:, 1]]
    return (values.flatten() * own / counts).sum() / batch


class PerceptualLoss(nn.Module):
    """L1 between VGG19's features of two images, last term of equation 11.

    weights: torchvision's vgg19 state dict, such as vgg19-dcbb9e9d.pth. Raises CheckpointError where the file is
    missing or something else.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        with torch.device("meta"):  # or 144 million weights would be drawn first
            network = vgg19(weights=None)
        network.load_state_dict(_read_vgg19(weights), assign=True)
        layers = list(network.features)
        ends = (0, *_RELU_OUTPUTS)
        self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in pairwise(ends))
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.mean = nn.Buffer(torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """image, target: [B, 3, R, R] in [-1, 1]. Returns a scalar."""
        x, y = (((z + 1) / 2 - self.mean) / self.std for z in (image, target))
        total = image.new_zeros(())
        for stage, weight in zip(self.stages, PERCEPTUAL_WEIGHTS, strict=True):
            x, y = stage(x), stage(y)
            total = total + weight * F.l1_loss(x, y.detach())
        return total


def _read_vgg19(path: Path) -> dict[str, Tensor]:
    where = "torchvision publishes it as vgg19-dcbb9e9d.pth; download it and name it, or give --perceptual none"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of VGG19 weights; {where}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            expected = vgg19(weights=None).state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
            raise CheckpointError(f"{path}: not the weights of VGG19; {where}")
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a state dict; {where}") from error
    return cast("dict[str, Tensor]", state)
