"""Shards on a Ray cluster.

Ray tells the console a lot, takes over signals, and ends its caller without a word where one of its own processes is
gone. So a process of its own, `ray_driver`, deals with it: a group of processes that ends as one, and whose words are
answers on a pipe.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lostgan_serve.errors import DeviceError, LostganError, OutputError
from lostgan_serve.files import writing
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.ray_driver import OpenRunner, Task
from lostgan_serve.synthesize.sessions import end_session
from lostgan_serve.synthesize.shards import Job
from lostgan_serve.synthesize.store import Store

_DRIVER = """\
import sys
sys.path = [path for path in sys.path if path]  # no module of the current folder
from pathlib import Path
from lostgan_serve.synthesize.ray_driver import main
main(int(sys.argv[1]), Path(sys.argv[2]))
"""
_LONGEST_TMPDIR = 18  # in bytes: Ray adds up to 89, and the path of a socket has 107
_END_S = 20.0  # that a driver has to disconnect from a cluster


class RayEngine:
    """See `making.Engine`. The data set must lie where all machines of the cluster can write.

    open_runner: opens an actor's runner. workers: how many actors there are, by default one for each CPU, or as many as
    fit on the GPUs. gpus: share of a GPU that each of them holds, or a whole number of them. The cluster is that of
    RAY_ADDRESS, or else one of this machine alone, of which nothing is left in the end.
    """

    def __init__(self, open_runner: OpenRunner, workers: int | None = None, gpus: float = 0.0) -> None:
        self._open_runner, self._workers, self._gpus = open_runner, workers, gpus

    def __call__(
        self,
        job: Job,
        shards: Sequence[int],
        runner: Runner,  # noqa: ARG002 - each actor opens its own
        store: Store,
        made: Callable[[int], object],
    ) -> None:
        """Raises what `ShardMaker.make` does, MissingExtraError, and DeviceError where the cluster does not answer, is
        too small, or loses a shard's actors again and again. Shards that are under way by then are given up."""
        if not shards:
            return
        task = Task(job, tuple(shards), self._open_runner, store, self._workers, self._gpus)
        parent = _short_folder()
        with writing(parent):
            folder = Path(tempfile.mkdtemp(prefix="lostgan-ray-", dir=parent))
        try:
            _drive(task, folder, made)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if lost := job.missing(store, shards):
            raise OutputError(
                f"{store}: {len(lost)} shards were made and are not there; give --out a folder that all machines of "
                "the cluster share, or a URL"
            )


def _short_folder() -> Path:
    """TMPDIR, or /tmp where Ray could not name its sockets in it."""
    chosen = Path(tempfile.gettempdir())
    return chosen if len(os.fsencode(chosen)) <= _LONGEST_TMPDIR else Path("/tmp")


def _drive(task: Task, folder: Path, made: Callable[[int], object]) -> None:
    """Have a driver do a task. folder: an empty one, for Ray's files."""
    log = folder / "driver.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(os.getpid()), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdin
    assert process.stdout
    try:
        with process.stdin, suppress(BrokenPipeError):
            pickle.dump(task, process.stdin)
        while (answer := pickle.load(process.stdout)) is not None:
            if isinstance(answer, LostganError):
                raise answer
            made(answer)
    except (EOFError, pickle.UnpicklingError) as error:
        last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        reason = "one of its processes is gone" if last.startswith("[") else last  # a line of its parts in C++
        raise DeviceError(f"Ray: it ended ({reason}); the same command goes on") from error
    except BaseException:
        process.terminate()
        raise
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()
        process.wait()
        process.stdout.close()
        end_session(process.pid, folder)
