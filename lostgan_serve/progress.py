"""How far long work is, for people: notes, stages and counts with the time left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TextIO

import click

Advance = Callable[[float, str], None]
"""Takes how much is done so far, and a few words on it; an empty text says nothing more."""

_REPORT_EVERY_S = 10.0


class Progress:
    """Tells nobody. Every function that works for long takes one of these, and tells it how far it is."""

    def note(self, line: str) -> None:
        """Tell one fact, as a line."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:  # noqa: ARG002
        """Tell that a stage begins, and how long it took once the block ends well."""
        yield

    @contextmanager
    def count(self, name: str, total: float, done: float = 0) -> Iterator[Advance]:  # noqa: ARG002
        """Yield a function that tells how much of `total` is done. done: what an earlier call had finished."""
        yield _ignore


SILENT = Progress()


class JsonLines(Progress):
    """Tells programs that collect logs: a JSON object a line on standard error, with `time` (UTC, ISO 8601), `level`
    (info or warning) and `message`."""

    def note(self, line: str) -> None:
        is_warning = line.startswith("warning: ")
        self.event(line.removeprefix("warning: "), "warning" if is_warning else "info")

    def event(self, message: str, level: str = "info", **facts: object) -> None:
        """Tell an event with facts of its own."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        tell(json.dumps({"time": now, "level": level, "message": message, **facts}, ensure_ascii=False))


class ConsoleProgress(Progress):
    """Tells a terminal by bars, and anything else by a line every ten seconds, both on standard error."""

    def note(self, line: str) -> None:
        tell(line)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        tell(f"{name} ...", newline=False)
        start, took = time.monotonic(), ""
        try:
            yield
            took = f" {time.monotonic() - start:.1f} s"
        finally:
            tell(took)

    @contextmanager
    def count(self, name: str, total: float, done: float = 0) -> Iterator[Advance]:
        if not sys.stderr.isatty():
            yield self._lines(name, total, done)
            return
        scale = 1 if isinstance(total, int) else 1000  # a bar counts in whole numbers
        length = round(total * scale)
        with click.progressbar(
            length=length, label=name, file=sys.stderr, show_pos=scale == 1, item_show_func=_text, width=20
        ) as bar:
            bar.update(round(done * scale))
            yield lambda now, text: bar.update(round(now * scale) - bar.pos, text)

    def _lines(self, name: str, total: float, done: float) -> Advance:
        start = reported = time.monotonic()

        def advance(now: float, text: str) -> None:
            nonlocal reported
            clock = time.monotonic()
            if now <= done or (clock - reported < _REPORT_EVERY_S and now < total):
                return
            reported = clock
            left_s = round((total - now) * (clock - start) / (now - done))
            share = f"{now}/{total}" if isinstance(total, int) else f"{now / total:.0%}"
            self.note("  ".join(part for part in (f"{name}: {share}", text, f"{_clock(left_s)} left") if part))

        return advance


def tell(line: str, *, newline: bool = True) -> None:
    """Write a line to standard error. One that takes no more, such as that of a full disk, is told nothing from then
    on: that is no reason to stop."""
    try:
        click.echo(line, nl=newline, err=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let go of what a stream could not write, and of all that follows: Python would try again at its end, and fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _clock(seconds: int) -> str:
    """Hours, minutes and seconds such as "1:02:03"."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _text(text: str | None) -> str:
    return text or ""


def _ignore(_done: float, _text: str) -> None:
    """Tell nobody."""
