"""What training needs to be the same on one process or many: batch norm, gradients and sums over all of them.

Plain torch.distributed under torchrun: the step has two optimizers, three passes through the discriminator and its own
rule for skipping, which a framework's step would have to be talked out of; what is left for it fits on this page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> tuple[int, int]:
    """Join the processes that torchrun started. Returns this one's rank and their number; (0, 1) without torchrun."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def mean(value: Tensor) -> Tensor:
    """Mean of a detached value over the processes."""
    value = value.detach().clone()
    if _world() > 1:
        dist.all_reduce(value)
    return value / _world()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if _world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= _world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def synchronize_batch_norm(network: nn.Module) -> None:
    """Turn every batch norm in a network into one whose statistics are of all processes, in place; names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device (torch's own is for GPUs only)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if not self.training or _world() == 1:
            return super().forward(x)
        values = x.float()
        sums = torch.cat(
            [values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), values.new_tensor([x.numel() / x.shape[1]])]
        )
        first, second, count = _sum(sums).split([x.shape[1], x.shape[1], 1])
        average = first / count
        variance = (second / count - average.square()).clamp(min=0)
        self._track(average, variance, count)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -average * scale if self.bias is None else self.bias - average * scale
        return torch.addcmul(shift.view(1, -1, 1, 1), values, scale.view(1, -1, 1, 1)).to(x.dtype)

    def _track(self, average: Tensor, variance: Tensor, count: Tensor) -> None:
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            running_mean.lerp_(average, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
            cast(Tensor, self.num_batches_tracked).add_(1)


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _sum(value: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(value))


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
