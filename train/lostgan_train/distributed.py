"""Training on one process or on many: devices, batch norm, gradients and decisions over all of them.

Lightning Fabric finds rank, device and backend. Its module wrapper is not used: a step has two optimizers and runs
through the discriminator three times before one backward pass, and a step that is not finite is undone as a whole,
which gradients averaged in one place make simple.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from lostgan_serve.errors import TrainingError
from lostgan_serve.progress import SILENT, Progress


class Processes:
    """The processes that train together, seen from this one. Without a fabric it is alone."""

    def __init__(self, fabric: Fabric | None = None, device: torch.device | None = None) -> None:
        self._fabric = fabric
        self.rank, self.count = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
        self.device = fabric.device if fabric else device or torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and tells of progress."""
        return self.rank == 0

    def telling(self, progress: Progress) -> Progress:
        """`progress` in the first process; in all others one that tells nobody."""
        return progress if self.first else SILENT

    def alone(self) -> Processes:
        """This process by itself, on the same device."""
        return Processes(device=self.device)

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in any of the processes: what one of them decides, all do."""
        if self._fabric is None or self.count == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return [bool(value) for value in cast(Tensor, self._fabric.all_reduce(values, reduce_op="max"))]

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over the processes."""
        if self._fabric is None or self.count == 1:
            return float(value.detach())
        return float(cast(Tensor, self._fabric.all_reduce(value.detach().clone(), reduce_op="mean")))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._fabric is not None:
            self._fabric.barrier()


def start() -> Processes:
    """Join the processes that torchrun started, each with a device of its own; without torchrun, this one is alone.

    Raises TrainingError where a machine has more processes than GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and here > gpus:
        raise TrainingError(f"{here} processes, but {gpus} GPUs here; start torchrun with --nproc-per-node {gpus}")
    fabric = Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=here,
        num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
    )
    fabric.launch()
    atexit.register(_leave)
    return Processes(fabric)


def _leave() -> None:
    """Part from the other processes before Python ends: threads of gloo that are still there then abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def synchronize_batch_norm(network: nn.Module) -> None:
    """Replace every batch norm of a network by one whose statistics are of all processes; weights and names stay."""
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.BatchNorm2d:
                synchronized = SynchronizedBatchNorm2d(
                    module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
                )
                synchronized.load_state_dict(module.state_dict())
                setattr(parent, name, synchronized)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device (torch's own is for GPUs only).

    Each process finds the mean of its own values and their squared distance from it; Chan's formula merges them. No
    squares of large values are subtracted, so a large mean costs no digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if not self.training or _world() == 1:
            return super().forward(x)
        values = x.float()
        variance, average = torch.var_mean(values, (0, 2, 3), correction=0)
        count = values.numel() / values.shape[1]
        rows = values.new_zeros(_world(), 3, values.shape[1])
        rows[dist.get_rank()] = torch.stack([torch.full_like(average, count), average, variance * count])
        counts, averages, distances = cast(Tensor, _Sum.apply(rows)).unbind(1)
        total = counts.sum(0)
        shares = counts / total
        average = (shares * averages).sum(0)
        variance = distances.sum(0) / total + (shares * (averages - average).square()).sum(0)
        self._track(average, variance, total)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        centred = (values - average.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        return (centred if self.bias is None else centred + self.bias.view(1, -1, 1, 1)).to(x.dtype)

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


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
