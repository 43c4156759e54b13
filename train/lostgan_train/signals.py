"""Signals that ask a run to stop: SIGTERM, as clusters send it, and SIGINT, which is Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_AGAIN_S = 1.0


@contextmanager
def stop_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop` within the block, so that the work ends where its state can be saved.

    Another one, more than a second later, ends the process at once: what stops a run often sends its signal twice, to
    the group and through torchrun.
    """
    first: list[float] = []

    def handle(number: int, _: FrameType | None) -> None:
        stop()
        first.append(time.monotonic())
        if first[-1] - first[0] > _AGAIN_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, handle) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_alone(_: int) -> None:
    """Ignore signals in a process that loads images: they are often sent to all processes of a run at once."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
