"""What the tests of training share: a tiny run, its log and the comparison of two states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lostgan_serve.progress import Advance, Progress
from lostgan_train.data import Source
from lostgan_train.gan import GAN
from lostgan_train.loop import LOG_FILE
from lostgan_train.settings import TrainSettings
from lostgan_train.training import TrainingRun

SETTINGS = TrainSettings(
    variant="v1-64",
    data=Path("data"),
    perceptual="none",
    steps=4,
    ch=2,
    batch=4,
    learning_rate=1e-3,
    checkpoint_every=2,
    sample_every=100,
    workers=0,
)
OPTIONS = (
    *("--variant", "v1-64", "--ch", 2, "--batch", 4, "--learning-rate", 1e-3, "--perceptual", "none"),
    *("--workers", 0),
)
"""The same as options of a command."""


class Heard(Progress):
    """Remembers what it is told: lines, and for each count the last that was done of the total, and a text."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: dict[str, tuple[float, float, str]] = {}

    def note(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def count(self, name: str, total: float, done: float = 0) -> Iterator[Advance]:
        self.counts[name] = (done, total, "")

        def advance(now: float, text: str) -> None:
            self.counts[name] = (now, total, text)

        yield advance


def training(source: Source, out: Path, heard: Heard | None = None, **changes: Any) -> TrainingRun:
    """A run of `SETTINGS` with changes."""
    settings = replace(SETTINGS, data=Path(source.summary.folder), **changes)
    return TrainingRun(settings, source, out, heard or Heard())


def losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]


def assert_same_state(one: GAN, other: GAN) -> None:
    """Both have the same networks and the same optimizers' states, bit for bit."""
    for name, part in one.state.items():
        theirs = _tensors(other.state[name].state_dict())
        ours = _tensors(part.state_dict())
        assert ours.keys() == theirs.keys(), name
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), (name, key)


def _tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for name, part in items for key, value in _tensors(part, f"{path}/{name}").items()}
