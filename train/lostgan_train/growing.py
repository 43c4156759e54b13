"""Growing a generator to a higher resolution: at first, it paints what the smaller one painted, enlarged.

The channels of the smaller network are the first ones of the larger network's. Added channels are computed, but nothing
depends on them yet; the added last block repeats pixels. All of this is learnt away, where that pays.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lostgan_train.networks.blocks import ResBlock
from lostgan_train.networks.generator import Generator, GeneratorConfig
from lostgan_train.networks.layers import initialize
from lostgan_train.networks.masks import MaskHead, PyramidPool, split_bottleneck
from lostgan_train.networks.norms import ISLANorm

_ADDED_SCALE = 0.01
"""Size of the weights that make added channels, for their share in a layer's spectral norm to be nothing. The norms
after them undo it."""

_POWER_ITERATIONS = 20

_NEXT = {"v2-128": "v2-256", "v2-256": "v2-512"}


def can_grow(source: GeneratorConfig, target: GeneratorConfig) -> bool:
    """Whether `grown` makes the one from the other: both are LostGAN-V2 with ISLA-Norm and differ in the resolution.
    The larger one may have a labels' context and noise besides, which begin as they do in any network."""
    smaller = source.variant in _NEXT and source.resolution < target.resolution
    alike = replace(
        source,
        variant=target.variant,
        label_context=source.label_context or target.label_context,
        noise=source.noise or target.noise,
    )
    return smaller and target.norm == "isla" and alike == target


def grown(source: Generator, variant: str, seed: int) -> Generator:
    """Make a generator of a higher resolution that paints as `source` does. seed: of the added weights.

    Masks are as before, but for those of the added stage, which begins as any does, and of the one where only v2-128
    pools a pyramid.
    """
    while source.config.variant != variant:
        source = _doubled(source, seed)
    return source


@torch.no_grad()
def _doubled(source: Generator, seed: int) -> Generator:
    config = replace(source.config, variant=_NEXT[source.config.variant])
    target = Generator(config, source.formulation)
    initialize(target, seed)
    state = target.state_dict()
    for name, theirs in _plain(source).items():
        if name in state:
            state[name] = _widened(theirs, state[name])
    target.load_state_dict(state)
    last = target.blocks[-1]
    assert isinstance(last, ResBlock)
    _repeat_pixels(last)
    _settle(target)
    return target


def _plain(source: Generator) -> dict[str, Tensor]:
    """The weights, with those of a pyramid's head as a plain head's: without the levels that it pools, whose mean the
    batch norm after them takes away in either."""
    state = dict(source.state_dict())
    for number, head in enumerate(source.mask_heads):
        if isinstance(head, MaskHead) and isinstance(head.features, PyramidPool):
            conv, norm = f"mask_heads.{number}.features.0", f"mask_heads.{number}.features.1"
            state[f"{conv}.weight"] = split_bottleneck(head.features.bottleneck.weight)[-1]
            state |= {f"{norm}.{name}": tensor for name, tensor in head.features.norm.state_dict().items()}
    return state


def _widened(theirs: Tensor, fresh: Tensor) -> Tensor:
    """A tensor of the larger network, with that of the smaller one in its first rows and columns.

    More rows of a weight make added channels. More columns read added channels, and begin as zeros.
    """
    if theirs.shape == fresh.shape:
        return theirs
    wide = fresh * _ADDED_SCALE if fresh.dim() > 1 else fresh.clone()
    if fresh.dim() > 1:
        wide[: theirs.shape[0]] = 0
    wide[tuple(slice(side) for side in theirs.shape)] = theirs
    return wide


def _repeat_pixels(block: ResBlock) -> None:
    """Make a block hand on its first channels, each pixel four times.

    Spectral norm allows no weight of zeros. So the last convolution reads one channel alone, which is kept silent.
    """
    norm = block.norm2
    assert isinstance(norm, ISLANorm)
    outputs, inputs = block.shortcut.weight.shape[:2]
    block.shortcut.weight = torch.eye(outputs, inputs)[..., None, None]
    only = torch.zeros(block.conv2.weight.shape)
    only[0, 0, 1, 1] = 1
    block.conv2.weight = only
    for layer, bias in ((norm.gamma, -1.0), (norm.beta, 0.0)):  # gamma is added to 1
        layer.weight = layer.weight.index_fill(0, torch.tensor(0), 0.0)
        layer.get_parameter("bias")[0] = bias


def _settle(network: nn.Module) -> None:
    """Let the estimates of spectral norms follow the weights."""
    network.train()
    for module in network.modules():
        if is_parametrized(module, "weight"):
            for _ in range(_POWER_ITERATIONS):  # one at each reading of a weight
                _ = module.weight
