"""Shards on this machine: threads share one runner, and two shards are under way at a time, so that no core waits for
the end of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.shards import Job, ShardMaker
from lostgan_serve.synthesize.store import Store

_SHARDS_AT_A_TIME = 2


def make_shards(
    job: Job,
    shards: Sequence[int],
    runner: Runner,
    store: Store,
    made: Callable[[int], object],
) -> None:
    """Make shards of a job in this process.

    made: is told from several threads how many more images are done. Raises what `ShardMaker.make` does, once the
    shards that are under way have ended.
    """
    with ThreadPoolExecutor(runner.concurrency) as drawing, ThreadPoolExecutor(_SHARDS_AT_A_TIME) as making:
        maker = ShardMaker(job, runner, store, drawing)
        futures = [making.submit(maker.make, number, made) for number in shards]
        done, left = wait(futures, return_when=FIRST_EXCEPTION)
        for future in left:
            future.cancel()
        for future in done:
            future.result()
