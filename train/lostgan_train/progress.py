"""How far a run is: a bar with the time left on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import click

_REPORT_S = 10.0

Report = Callable[[int, Mapping[str, float]], None]
"""A function that is called after each step, with its number and its figures by name, such as its losses."""


@contextmanager
def progress(what: str, done: int, steps: int, images: int, echo: Callable[[str], None]) -> Iterator[Report]:
    """Yield a function that tells of the steps after `done`, up to `steps`, and of their pace in images a second."""
    start = time.monotonic()

    def describe(step: int, terms: Mapping[str, float]) -> str:
        values = "  ".join(f"{name} {value:.3f}".removesuffix(".000") for name, value in terms.items())
        return f"{values}  {(step - done) * images / (time.monotonic() - start):.1f} images/s"

    if not sys.stderr.isatty():
        yield _lines(what, done, steps, describe, echo)
        return
    label = f"{what} from step {done}" if done else what
    with click.progressbar(
        length=steps - done, label=label, file=sys.stderr, show_pos=True, item_show_func=str, width=20
    ) as bar:
        yield lambda step, terms: bar.update(1, describe(step, terms))


def _lines(
    what: str, done: int, steps: int, describe: Callable[[int, Mapping[str, float]], str], echo: Callable[[str], None]
) -> Report:
    start = reported = time.monotonic()

    def report(step: int, terms: Mapping[str, float]) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported > _REPORT_S or step == steps:
            reported = now
            left = round((steps - step) * (now - start) / (step - done))
            clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
            echo(f"{what}: step {step}/{steps}  {describe(step, terms)}  {clock}")

    return report
