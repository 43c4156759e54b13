"""The verb: make the data set that a plan describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

from lostgan_serve.encoding import check
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.dataset import DataSet
from lostgan_serve.synthesize.local import make_shards
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.recipe import Choices
from lostgan_serve.synthesize.scorer import OnnxScorer
from lostgan_serve.synthesize.shards import Job
from lostgan_serve.synthesize.store import Store, open_store

_COCO = Choices()


class Engine(Protocol):
    """Makes shards of a job: all of `shards`, in any order. See `local.make_shards`."""

    def __call__(
        self,
        job: Job,
        shards: Sequence[int],
        runner: Runner,
        store: Store,
        made: Callable[[int], object],
    ) -> None: ...


def synthesize(
    plan: Plan,
    out: str,
    runner: Runner,
    choices: Choices = _COCO,
    engine: Engine = make_shards,
    progress: Progress = SILENT,
) -> Counter[str]:
    """Make a data set, or go on with one. Returns counts: images, and rejections by reason.

    out: a folder, or a URL that fsspec knows. A call that was killed and is made again ends with the same files, byte
    for byte. Raises LayoutError where the model cannot generate a layout, ModelError, ServerError, OutputError and
    MissingExtraError; the shards that there are by then are kept.
    """
    for layout in plan.layouts:
        check(layout, runner.manifest)
    if choices.scorer is not None:
        OnnxScorer(choices.scorer, runner.manifest.vocabulary)  # fails before anything is written
    store = open_store(out)
    with store.locked():
        data = DataSet.opened(store, plan, runner.manifest, choices)
        missing = data.missing()
        if len(missing) < plan.shards:
            progress.note(f"note: {plan.shards - len(missing)} of {plan.shards} shards are there already")
        done = len(plan) - plan.images_of(missing)
        with progress.count("synthesizing", len(plan), done) as advance:
            engine(data.job, missing, runner, store, _Counted(advance, done))
        return data.finish(runner.manifest)


class _Counted:
    """Adds up what several threads have made."""

    def __init__(self, advance: Callable[[float, str], None], done: int) -> None:
        self._advance, self._done, self._lock = advance, done, Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._advance(self._done, "")
