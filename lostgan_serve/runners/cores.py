"""Spreading a batch over the cores of a CPU: each generates layouts of its own, at its own pace."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

from lostgan_serve.contract import Array, Tensors, concatenated, rows

Infer = Callable[[Tensors, Sequence[str]], dict[str, Array]]
"""Computes a batch: its tensors, and the outputs that are wanted."""


_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, as seen in it: "400000 100000" for 4 cores, "max ..." for all


def usable_cores() -> int:
    """The number of CPU cores that this process may run on, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text("ascii").split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def callers(threads: int) -> int:
    """How many callers at a time keep all cores busy, where each gets `threads` of them."""
    return max(1, usable_cores() // threads)


def one_by_one(infer: Infer) -> Infer:
    """Have the layouts of a batch generated one at a time. On one core a batch of 8 takes 1.05 times as long together
    (ONNX Runtime, ch 16, 128 px). On any number of cores, the last digits of a layout's masks would depend on the
    layouts beside it, and with them, once in many thousand pixels, the object that owns a pixel."""

    def run(tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        batch = len(tensors["labels"])
        return concatenated([infer(rows(tensors, k, k + 1), outputs) for k in range(batch)])

    return run


class Cores:
    """Generates batches on `count` cores: as many layouts as they share out evenly each by one core, the others by all.

    Cores that share a layout wait for one another after every operation. On two of them, batches are 1.03 (ch 64) to
    1.18 times (ch 16) as fast in ONNX Runtime this way, and 1.05 to 1.4 times in OpenVINO in bf16. The weights are in
    memory twice: a batch of 4 took 1,008 MiB in place of 772 at ch 64 and 256 px, and 593 in place of 629 at ch 16 and
    512 px, where the maps count more.

    together: generates a batch on all cores. make_alone: makes a function that generates one layout on one core, for
    `count` threads to call at a time; it is called when the first batch needs it.
    """

    def __init__(self, count: int, together: Infer, make_alone: Callable[[], Infer]) -> None:
        self._count, self._together, self._make_alone = count, together, make_alone
        self._alone: Infer | None = None
        self._making = Lock()
        self._pool = ThreadPoolExecutor(count)

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        """See `Runner.run`."""
        batch = len(tensors["labels"])
        shared = batch - batch % self._count
        if shared == 0 or self._count == 1:
            return self._together(tensors, outputs)
        with self._making:
            alone = self._alone = self._alone or self._make_alone()
        layouts = [rows(tensors, k, k + 1) for k in range(shared)]
        done = list(self._pool.map(lambda layout: alone(layout, outputs), layouts))
        if shared < batch:
            done.append(self._together(rows(tensors, shared, batch), outputs))
        return concatenated(done)

    def close(self) -> None:
        """Let go of both, once the cores have done what they are at. (A thread that ends while the library that it ran
        lets go of its memory may crash the process.)"""
        self._pool.shutdown(cancel_futures=True)
        del self._together, self._make_alone, self._alone
