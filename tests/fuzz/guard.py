"""The property that every target is held to: an input is accepted or refused, within bounds of time and memory."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lostgan_serve.errors import LostganError

LIMIT_S = 10.0
"""The longest that one input may take, on a machine that does other work, too."""

LIMIT_MIB = 512
"""The most memory that one input may add, while it is dealt with."""

LONGEST_LINE = 2000
"""Characters that an error may have: a message is a line, whatever stands in the input."""

Target = Callable[[bytes], None]
"""Takes an input. Returns where it is accepted and its result is whole, and raises LostganError where it is refused."""


@dataclass
class Find(AssertionError):  # noqa: N818 - it is no error of the one who sees it
    """An input that neither gave a result nor a refusal. kind: the words that finds of one cause share."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}\n{self.detail}"


class _TooSlow(BaseException):
    """Raised from outside; a BaseException, since what catches errors of others may not catch it."""


def tried(target: Target, data: bytes) -> str | None:
    """Give an input to a target. Returns the class of the error that refused it, None where it was accepted.

    Raises Find for any other exception, a message that is not one line, and for too much time or memory.
    """
    refused, before_mib, start = None, _peak_mib(reset=True), time.monotonic()
    try:
        with _alarm(LIMIT_S):
            target(data)
    except LostganError as error:
        refused = type(error).__name__
        _check_line(str(error))
    except _TooSlow:
        raise Find("too slow", f"over {LIMIT_S:g} s") from None
    except Find:
        raise
    except Exception as error:
        raise Find(f"{type(error).__name__} at {_place(error)}", traceback.format_exc()) from error
    if (took_s := time.monotonic() - start) > LIMIT_S:  # in a library that lets no signal through
        raise Find("too slow", f"{took_s:.1f} s")
    if (grown_mib := _peak_mib() - before_mib) > LIMIT_MIB:
        raise Find("too much memory", f"{grown_mib:.0f} MiB")
    return refused


def _check_line(message: str) -> None:
    """A message is a line of bounded length. (The command line spells out what cannot be printed.)"""
    if not message or "\n" in message:
        raise Find("a message that is not one line", message)
    if len(message) > LONGEST_LINE:
        raise Find("a message that is too long", message)


def _place(error: Exception) -> str:
    """The innermost line of this project that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "lostgan" in Path(frame.filename).parent.as_posix().rpartition("/")[2]]
    own = own or [frame for frame in frames if "site-packages" not in frame.filename]
    frame = own[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _peak_mib(*, reset: bool = False) -> float:
    """The most memory that this process has had since the last reset; right after one, what it has."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) / 1024


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
