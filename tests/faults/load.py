"""Clients that ask for many layouts, and compare every picture byte for byte with the one that `generate` makes."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from conftest import EXAMPLES
from faults.leftovers import Traces
from faults.serving import COMMAND
from faults.tally import Tally
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.errors import LostganError
from lostgan_serve.layout import Layout, load_layouts
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.samples import styles

SAMPLES = 24
"""Styles of each example."""

ALL_LAYOUTS = [*map(str, EXAMPLES), "--samples", str(SAMPLES), "--only", "image,object_map"]
"""Words of a command line that has `generate` or `client` make two pictures of each layout."""

_TIMEOUT_S, _PATIENCE_S = 60.0, 120.0
_OUTPUTS = (("image",), OUTPUT_NAMES, ("object_map", "masks"))


@dataclass(frozen=True)
class Truth:
    """The right pictures of a model. folder: the model's, in the repository."""

    folder: Path

    @cached_property
    def layouts(self) -> list[Layout]:
        """Every example in SAMPLES styles."""
        return [style for path in EXAMPLES for one in load_layouts(str(path)) for style in styles(one, SAMPLES)]

    @cached_property
    def results(self) -> dict[str, Result]:
        """The right result of each layout, by its name."""
        with closing(OnnxRunner(self.folder / "1" / "model.onnx")) as runner:
            return {result.layout.name: result for result in generate(self.layouts, runner)}

    def differs(self, found: Result, outputs: Sequence[str]) -> bool:
        """Whether any byte of a result is not the right one."""
        right = self.results[found.layout.name]
        return any(not np.array_equal(getattr(found, name), getattr(right, name)) for name in outputs)


class Load:
    """Threads that ask a server while the block runs, two for each address. Each request is one to eight layouts.

    What a client gives up for good is a lost result: it waits two minutes for a server that is away.
    """

    def __init__(self, urls: Sequence[str], truth: Truth, tally: Tally, seed: str) -> None:
        self._urls, self._truth, self._tally, self._seed = urls, truth, tally, seed
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Load:
        assert self._truth.results  # made before the clock runs
        for number, url in enumerate([*self._urls] * 2):
            self._threads.append(threading.Thread(target=self._ask, args=(url, number), daemon=True))
            self._threads[-1].start()
        self.answers(4)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S + _PATIENCE_S)
        late = [f"{thread.name} has had no answer" for thread in self._threads if thread.is_alive()]
        self._tally.lost += late

    def answers(self, count: int, within_s: float = 90.0) -> None:
        """Wait until so many more pictures have come, or count those as lost."""
        end, goal = time.monotonic() + within_s, self._tally.answered + count
        while self._tally.answered < goal:
            if time.monotonic() > end or not any(thread.is_alive() for thread in self._threads):
                self._tally.lost.append(f"no answer within {within_s:.0f} s")
                return
            time.sleep(0.02)

    def _ask(self, url: str, number: int) -> None:
        draw = random.Random(f"{self._seed} {number}")
        try:
            with closing(TritonRunner(url, timeout_s=_TIMEOUT_S, patience_s=_PATIENCE_S)) as runner:
                while not self._stop.is_set():
                    batch = draw.sample(self._truth.layouts, draw.randint(1, 8))
                    self._compare(batch, draw.choice(_OUTPUTS), runner)
        except LostganError as error:
            self._tally.lost.append(f"{url}: {error}")

    def _compare(self, batch: Sequence[Layout], outputs: Sequence[str], runner: TritonRunner) -> None:
        found = list(generate(batch, runner, outputs))
        with self._lock:
            self._tally.answered += len(found)
        if [result.layout.name for result in found] != [layout.name for layout in batch]:
            self._tally.lost.append(f"{len(batch)} layouts had {len(found)} results")
        self._tally.wrong += [r.layout.name for r in found if self._truth.differs(r, outputs)]


class ClientCommand:
    """The command `client` as a process, which fills a folder."""

    def __init__(self, url: str, folder: Path, traces: Traces) -> None:
        self.folder, self._traces, self._log = folder, traces, folder.with_suffix(".log")
        self._words = [COMMAND, "client", *ALL_LAYOUTS, "--url", url, "--patience", str(_PATIENCE_S)]
        self._words += ["--out", str(folder)]
        self.start()

    def start(self) -> None:
        with self._log.open("w") as log:
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log, env=self._traces.environment)

    def files(self) -> int:
        """How many pictures there are."""
        return len(list(self.folder.glob("[!.]*.png")))

    def finish(self, pictures: Path, tally: Tally) -> None:
        """Wait until it ends, and compare its folder with the one that `generate` filled."""
        try:
            code: object = self.process.wait(_TIMEOUT_S + _PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = f"a kill after {_TIMEOUT_S + _PATIENCE_S:.0f} s"
        if code:
            tally.lost.append(f"client ended with {code}: {self._log.read_text('utf-8').splitlines()[-1:]}")
        compare_folders(self.folder, pictures, tally)


def compare_folders(found: Path, right: Path, tally: Tally) -> None:
    """Count pictures that are there and are not the right ones, and those that are missing or too many."""
    ours, theirs = ({path.relative_to(folder) for path in folder.rglob("*.png")} for folder in (found, right))
    tally.answered += len(ours)
    tally.wrong += [str(name) for name in sorted(ours & theirs) if not same_picture(found / name, right / name)]
    tally.lost += [f"{name} is missing" for name in sorted(theirs - ours)]
    tally.lost += [f"{name} is one too many" for name in sorted(ours - theirs)]


def same_picture(one: Path, other: Path) -> bool:
    """Whether two files are the same, byte for byte."""
    return one.read_bytes() == other.read_bytes()
