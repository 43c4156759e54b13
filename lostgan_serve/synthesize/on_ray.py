"""Shards on a Ray cluster: actors that each hold a runner take them from Ray Data.

A shard's part is the checkpoint: Ray is given the shards without one. Ray Data's own checkpoints would say the same a
second time, for rows, and could disagree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DeviceError, LostganError, require
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.shards import Job, ShardMaker
from lostgan_serve.synthesize.store import Store

OpenRunner = Callable[[Progress], Runner]
"""Opens a runner. It is sent to other processes."""

_SPARE_CPUS = 0.5  # Ray Data's own tasks starve where actors have all, and nothing goes on


class RayEngine:
    """See `making.Engine`. The data set must lie where all machines of the cluster can write.

    open_runner: opens an actor's runner. workers: how many actors there are, by default one for each CPU. gpus: share
    of a GPU that each of them holds. The cluster is that of RAY_ADDRESS, or else one of this machine alone.
    """

    def __init__(self, open_runner: OpenRunner, workers: int | None = None, gpus: float = 0.0) -> None:
        self._open_runner, self._workers, self._gpus = open_runner, workers, gpus

    def __call__(
        self,
        job: Job,
        shards: Sequence[int],
        runner: Runner,  # noqa: ARG002 - each actor opens its own
        store: Store,
        scorer: Path | None,
        made: Callable[[int], object],
    ) -> None:
        """Raises what `ShardMaker.make` does, MissingExtraError, and DeviceError where the cluster is too small."""
        if not shards:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its maker
        ray, data = require("ray", "ray"), require("ray.data", "ray")
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error", configure_logging=True)
        data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        workers = min(self._workers or max(1, int(cpus)), len(shards))
        if self._gpus * workers > gpus:
            raise DeviceError(f"--worker-gpus: {workers} actors want {self._gpus * workers:g} GPUs, Ray has {gpus:g}")
        made_shards = data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
        made_shards = made_shards.map_batches(
            _Actor,
            fn_constructor_args=(job, self._open_runner, store, scorer),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=min(1.0, round((cpus - _SPARE_CPUS) / workers, 3)),
            num_gpus=self._gpus or None,
        )
        try:
            for row in made_shards.iter_rows():
                made(int(row["images"]))
        except ray.exceptions.RayError as error:
            raise _cause(error) from error


class _Actor:
    """Makes one shard after another in a process of its own."""

    def __init__(self, job: Job, open_runner: OpenRunner, store: Store, scorer: Path | None) -> None:
        self._job = job
        self._maker = ShardMaker(job, open_runner(SILENT), store, ThreadPoolExecutor(1), scorer)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        numbers = [int(number) for number in batch["shard"]]
        for number in numbers:
            self._maker.make(number, lambda _count: None)
        return {"images": [self._job.plan.images_of([number]) for number in numbers]}


def _cause(error: BaseException) -> LostganError:
    """The error that an actor raised, which Ray wraps several times; for Ray's own, one line of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LostganError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return DeviceError(f"Ray: {str(error).strip().splitlines()[-1]}; see its logs, then repeat the command")
