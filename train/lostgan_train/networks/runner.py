"""A generator in PyTorch as a runner: evaluation generates from a checkpoint as it does from an exported model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lostgan_serve.contract import INPUT_NAMES, Array, Tensors
from lostgan_train.networks.checkpoint import Checkpoint
from lostgan_train.networks.generator import to_pixels
from lostgan_train.networks.layers import resize
from lostgan_train.networks.masks import object_map, to_levels

_MAX_BATCH = 8
_PIXELS_AT_ONCE = _MAX_BATCH * 256**2  # a batch of larger images is generated in parts, for the sake of memory


def inference_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class GeneratorRunner:
    """Runs a checkpoint's generator, on the GPU where there is one. See `lostgan_serve.runners.Runner`.

    mask_stages: the last stage that refines masks, see `Generator.forward`; None stands for all of them.
    """

    concurrency = 1  # torch uses every thread that it was given

    def __init__(self, checkpoint: Checkpoint, mask_stages: int | None = None) -> None:
        """Raises ValueError for a stage that does not exist."""
        self.checkpoint, self.mask_stages = checkpoint, mask_stages
        config = checkpoint.generator.config
        if mask_stages is not None:
            config.refined_stages(mask_stages)
        self.manifest = checkpoint.manifest(checkpoint.vocabulary.slots, _MAX_BATCH, mask_stages=mask_stages)
        self._device = inference_device()
        self._generator = checkpoint.generator.to(self._device)
        self._parts = -(-_MAX_BATCH * config.resolution**2 // _PIXELS_AT_ONCE)

    @torch.inference_mode()
    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """Compute one batch, see `Runner.run`: image, object_map and masks, those that are asked for."""
        inputs = [torch.from_numpy(tensors[name]).to(self._device) for name in INPUT_NAMES]
        parts = [self._generate(*part) for part in zip(*(x.chunk(self._parts) for x in inputs), strict=True)]
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in outputs}

    def _generate(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self._generator(*inputs, mask_stages=self.mask_stages)
        masks = resize(output.mask_final, self.manifest.resolution)
        return {
            "image": to_pixels(output.image),
            "object_map": object_map(masks),
            "masks": to_levels(masks),
        }

    def close(self) -> None:
        """Let go of nothing: the checkpoint is the caller's."""
