"""Shards on a Ray cluster: actors that each hold a runner take them from Ray Data.

A shard's part is the checkpoint: Ray is given the shards without one. Ray Data's own checkpoints would say the same a
second time, for rows, and could disagree. The shards come from this process, not from tasks that read: such tasks
starve where actors have all CPUs, and then nothing goes on.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lostgan_serve.errors import DeviceError, LostganError, OutputError, require
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.ray_session import ray_session
from lostgan_serve.synthesize.shards import Job, ShardMaker
from lostgan_serve.synthesize.store import Store

OpenRunner = Callable[[Progress], Runner]
"""Opens a runner. It is sent to other processes."""

_ATTEMPTS = 8
"""How often a shard is begun. Ray begins it again for ever where it kills its actor each time, for want of memory."""


class RayEngine:
    """See `making.Engine`. The data set must lie where all machines of the cluster can write.

    open_runner: opens an actor's runner. workers: how many actors there are, by default one for each CPU, or as many as
    fit on the GPUs. gpus: share of a GPU that each of them holds, or a whole number of them. The cluster is that of
    RAY_ADDRESS, or else one of this machine alone.
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
        """Raises what `ShardMaker.make` does, MissingExtraError, and DeviceError where the cluster is too small or
        loses a shard's actors again and again. Shards that are under way by then are given up."""
        if not shards:
            return
        with ray_session() as scratch:
            ray, data = require("ray", "ray"), require("ray.data", "ray")
            actors, cpus = self._actors(ray.cluster_resources(), len(shards))
            tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote()
            rows = data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
            rows = rows.map_batches(
                _Actor,
                fn_constructor_args=(job, self._open_runner, store, scorer, Path.cwd(), scratch, tally),
                batch_size=1,
                # none waits behind another while an actor is idle
                compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
                num_cpus=cpus,
                num_gpus=self._gpus or None,
            )
            try:
                for row in rows.iter_rows():
                    if row["error"]:
                        raise pickle.loads(row["error"])
                    made(int(row["images"]))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise DeviceError(f"Ray: {reason}; see its logs, then repeat the command") from error
            finally:
                ray.kill(tally)
        if lost := {f"{job.shard_name(number)}.json" for number in shards} - store.names("parts"):
            raise OutputError(
                f"{store}: {len(lost)} shards were made and are not there; give --out a folder that all machines of "
                "the cluster share, or a URL"
            )

    def _actors(self, resources: dict[str, float], shards: int) -> tuple[int, float]:
        """How many actors to have, and the share of a CPU for each. Raises DeviceError."""
        cpus, gpus, share = resources.get("CPU", 0.0), int(resources.get("GPU", 0.0)), self._gpus
        if cpus <= 0:
            raise DeviceError("Ray: its cluster has no CPU; start its workers, then repeat the command")
        most = max(1, int(cpus))
        if share:
            if share > 1 and share != int(share):
                raise DeviceError(f"--worker-gpus {share:g}: give a share of one GPU, or a whole number of GPUs")
            most = int(gpus / share) if share > 1 else gpus * int(1 / share)
            if most < (self._workers or 1):
                raise DeviceError(
                    f"--worker-gpus {share:g}: Ray has {gpus} GPUs, which is room for {most} workers; give fewer "
                    "--workers or a smaller share, or leave it out to use CPUs"
                )
        actors = min(self._workers or most, shards)
        return actors, min(1.0, int(cpus / actors * 1000) / 1000)


class _Tally:
    """Counts how often each shard was begun, for all actors."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        self._counts[shard] += 1
        return self._counts[shard]


class _Actor:
    """Makes one shard after another in a process of its own. An error is part of the answer: Ray would wrap it, and
    tell the console."""

    def __init__(
        self,
        job: Job,
        open_runner: OpenRunner,
        store: Store,
        scorer: Path | None,
        folder: Path,
        scratch: str | None,
        tally: Any,
    ) -> None:
        """folder: the one that relative paths start from. scratch: one for temporary files. tally: see `_Tally`."""
        self._job, self._open_runner, self._store, self._scorer = job, open_runner, store, scorer
        self._folder, self._tally = folder, tally
        self._maker: ShardMaker | None = None
        tempfile.tempdir = scratch
        if prctl := getattr(ctypes.CDLL(None), "prctl", None):  # not to go on writing when Ray is gone
            prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (number,) = map(int, batch["shard"])
        error = b""
        try:
            self._begin(number)
            self._opened().make(number, lambda _count: None)
        except (LostganError, OSError) as raised:
            error = pickle.dumps(raised)
        return {"images": [self._job.plan.images_of([number])], "error": [error]}

    def _begin(self, number: int) -> None:
        if require("ray", "ray").get(self._tally.begin.remote(number)) > _ATTEMPTS:
            raise DeviceError(
                f"shard {self._job.shard_name(number)}: {_ATTEMPTS} of Ray's workers died while they made it; give "
                "fewer --workers or a smaller --shard-size, or see Ray's logs"
            )

    def _opened(self) -> ShardMaker:
        if self._maker is None:
            os.chdir(self._folder)
            runner = self._open_runner(SILENT)
            self._maker = ShardMaker(self._job, runner, self._store, ThreadPoolExecutor(1), self._scorer)
        return self._maker
