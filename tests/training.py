"""What the tests of training share: a tiny run, its log and the comparison of two states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lostgan_train.data import Source
from lostgan_train.gan import GAN, TrainingRun
from lostgan_train.loop import LOG_FILE
from lostgan_train.settings import TrainSettings

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


def training(source: Source, out: Path, **changes: Any) -> TrainingRun:
    """A run of `SETTINGS` with changes."""
    settings = replace(SETTINGS, data=Path(source.summary.folder), **changes)
    return TrainingRun(settings, source, out, echo=lambda _: None)


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
