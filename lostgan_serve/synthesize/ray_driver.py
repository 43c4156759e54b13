"""The process that deals with Ray for `on_ray.RayEngine`, and the actors that it has there.

Actors that each hold a runner take shards from Ray Data. A shard's part is the checkpoint: Ray is given the shards
without one. Ray Data's own checkpoints would say the same a second time, for rows, and could disagree. The shards come
from this process, not from tasks that read: such tasks starve where actors have all CPUs, and then nothing goes on.
"""

from __future__ import annotations

import os
import pickle
import secrets
import shlex
import signal
import socket
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lostgan_serve.errors import DeviceError, LostganError, require
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.sessions import end_own_session, signal_at_parents_end
from lostgan_serve.synthesize.shards import Job, ShardMaker
from lostgan_serve.synthesize.store import Store

OpenRunner = Callable[[Progress], Runner]
"""Opens a runner. It is sent to other processes."""

_ATTEMPTS = 8
"""How often a shard is begun. Ray begins it again for ever where it kills its actor each time, for want of memory."""

_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Task:
    """Shards of a job to make. open_runner, workers, gpus: see `on_ray.RayEngine`."""

    job: Job
    shards: tuple[int, ...]
    open_runner: OpenRunner
    store: Store
    workers: int | None
    gpus: float


def main(caller: int, folder: Path) -> None:
    """Do the task on standard input. Answer on standard output, in pickles: the number of images of each shard that was
    made, and in the end None or an error.

    caller: the process that waits for the answers, and then ends the session that this one leads. Where it is gone,
    this one does. folder: for Ray's files; it goes with the session.
    """
    try:
        _stop_on_sigterm()
        signal_at_parents_end(signal.SIGTERM)
        if os.getppid() == caller:
            with os.fdopen(os.dup(1), "wb", buffering=0) as answers:
                os.dup2(2, 1)  # what Ray has to say goes to the log
                for answer in _answers(pickle.load(sys.stdin.buffer), folder):
                    pickle.dump(answer, answers)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getppid() != caller:
            end_own_session(folder)
        os._exit(0)  # the caller ends the session; Ray would take seconds for it


def _answers(task: Task, folder: Path) -> Iterator[int | LostganError | None]:
    try:
        with _connected(folder) as ray:
            yield from _shards(task, ray, folder)
    except LostganError as error:
        yield error
    except Exception as error:
        traceback.print_exc()
        yield DeviceError(f"Ray: {_last_line(str(error)) or type(error).__name__}; the same command goes on")
    else:
        yield None


@contextmanager
def _connected(folder: Path) -> Iterator[ModuleType]:
    """Yield Ray, connected to the cluster of RAY_ADDRESS or else to one that is started on this machine. Raises
    MissingExtraError, and DeviceError where it does not start or answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its maker
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        # Ray's ports are open to the network. Without a token of ours it would leave one in the user's home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options = {"include_dashboard": False, "_temp_dir": str(_own(folder))}
        if home := os.environ.get("HOME"):
            # Workers with an environment of their own are started by a shell, which Ray hands the path as it is.
            options["runtime_env"] = {"env_vars": {"HOME": home}, "py_executable": shlex.quote(sys.executable)}
    elif address != "auto":
        _knock(address)
    ray = require("ray", "ray")
    try:
        with _quiet_home(folder) if address == "local" else nullcontext():
            ray.init(address=address, log_to_driver=False, **options)
    except Exception as error:  # of many types
        raise DeviceError(f"Ray: it does not start or answer ({' '.join(str(error).split())})") from error
    _stop_on_sigterm()  # Ray has handlers of its own
    try:
        yield ray
    finally:
        if address != "local":  # that one is killed with this process
            ray.shutdown()


@contextmanager
def _quiet_home(folder: Path) -> Iterator[None]:
    """Give Ray's own processes a home with a file in it that keeps them from asking the addresses of three clouds in
    which of them they run, which they do even where they report nothing."""
    (folder / "ray_bootstrap_config.yaml").write_text("{}\n", "utf-8")
    home = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["HOME"]
        if home is not None:
            os.environ["HOME"] = home


def _own(folder: Path) -> Path:
    """Where a Ray of this machine keeps its files. All users may write there, but for the folder around it."""
    return folder / "r"  # names of sockets have to be short


def _knock(address: str) -> None:
    """Raise DeviceError where nothing listens at a cluster's address: Ray itself would try it for 14 minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"RAY_ADDRESS={address}: no Ray there ({error}); start the cluster, or unset RAY_ADDRESS to use this "
            "machine alone"
        ) from error


def _shards(task: Task, ray: ModuleType, folder: Path) -> Iterator[int]:
    """Have actors make the shards of a task, and yield the number of images of each."""
    data = require("ray.data", "ray")
    data.DataContext.get_current().enable_progress_bars = False
    actors, cpus = _actors(task, ray.cluster_resources())
    tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote()
    scratch = str(folder) if _own(folder).exists() else None  # else the actors are elsewhere
    rows = data.from_items([{"shard": number} for number in task.shards], override_num_blocks=len(task.shards))
    rows = rows.map_batches(
        _Actor,
        fn_constructor_args=(task, Path.cwd(), scratch, tally),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),  # none waits for one actor
        num_cpus=cpus,
        num_gpus=task.gpus or None,
    )
    for row in rows.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield int(row["images"])


def _actors(task: Task, resources: dict[str, float]) -> tuple[int, float]:
    """How many actors to have, and the share of a CPU for each. Raises DeviceError."""
    cpus, gpus, share = resources.get("CPU", 0.0), int(resources.get("GPU", 0.0)), task.gpus
    if cpus <= 0:
        raise DeviceError("Ray: its cluster has no CPU; start its workers, then repeat the command")
    most = max(1, int(cpus))
    if share:
        if share > 1 and share != int(share):
            raise DeviceError(f"--worker-gpus {share:g}: give a share of one GPU, or a whole number of GPUs")
        most = int(gpus / share) if share > 1 else gpus * int(1 / share)
        if most < (task.workers or 1):
            raise DeviceError(
                f"--worker-gpus {share:g}: Ray has {gpus} GPUs, which is room for {most} workers; give fewer --workers "
                "or a smaller share, or leave it out to use CPUs"
            )
    actors = min(task.workers or most, len(task.shards))
    return actors, min(1.0, int(cpus / actors * 1000) / 1000)


class _Tally:
    """Counts how often each shard was begun, for all actors."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        self._counts[shard] += 1
        return self._counts[shard]


class _Actor:
    """Makes one shard after another in a process of its own. An error is part of the answer: Ray would wrap it."""

    def __init__(self, task: Task, folder: Path, scratch: str | None, tally: Any) -> None:
        """folder: the one that relative paths start from. scratch: one for temporary files. tally: see `_Tally`."""
        self._task, self._folder, self._tally = task, folder, tally
        self._maker: ShardMaker | None = None
        tempfile.tempdir = scratch
        signal_at_parents_end(signal.SIGKILL)  # not to go on writing when Ray is gone

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (number,) = map(int, batch["shard"])
        error = b""
        try:
            self._begin(number)
            self._opened().make(number, lambda _count: None)
        except (LostganError, OSError) as raised:
            error = pickle.dumps(raised)
        return {"images": [self._task.job.plan.images_of([number])], "error": [error]}

    def _begin(self, number: int) -> None:
        if require("ray", "ray").get(self._tally.begin.remote(number)) > _ATTEMPTS:
            raise DeviceError(
                f"shard {self._task.job.shard_name(number)}: {_ATTEMPTS} of Ray's workers died while they made it; "
                "give fewer --workers or a smaller --shard-size, or see Ray's logs"
            )

    def _opened(self) -> ShardMaker:
        if self._maker is None:
            os.chdir(self._folder)
            task, runner = self._task, self._task.open_runner(SILENT)
            self._maker = ShardMaker(task.job, runner, task.store, ThreadPoolExecutor(1))
        return self._maker


def _stop_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
