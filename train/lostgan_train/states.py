"""The files of saved states in the folder of a run: state-0000100.pt is that after step 100."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

STATE_FILES = "state-*.pt"

_STATE = re.compile(r"state-(\d+)\.pt", re.ASCII)


def key_of(*facts: object) -> str:
    """A short name of all that a state depends on, for its folder: 16 hexadecimal digits of the facts' `repr`.

    Names of files need not be UTF-8.
    """
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def state_file(out: Path, step: int) -> Path:
    """The file for the state after `step`."""
    return out / f"state-{step:07}.pt"


def states_in(out: Path) -> list[Path]:
    """The files of saved states, the newest first; not those that people named otherwise, or that were set aside."""
    return sorted((file for file in out.glob(STATE_FILES) if _STATE.fullmatch(file.name)), key=step_of, reverse=True)


def step_of(file: Path) -> int:
    """The step after which a state was saved. file: one of `states_in`."""
    return int(file.stem.removeprefix("state-"))


def newest_step(out: Path) -> int:
    """The step of the newest state, 0 without any."""
    return max(map(step_of, states_in(out)), default=0)


def set_aside(file: Path) -> None:
    """Rename a damaged state, so that it counts no longer as one of those that are kept. Raises OSError."""
    file.rename(file.with_name(f"damaged-{file.name}"))
