"""The editor's speed, measured in a real browser: from letting go of a box until its picture is on the screen."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lostgan_export.bench.report import table
from lostgan_serve.errors import MissingExtraError, ServerError, require
from lostgan_serve.progress import SILENT, Progress

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of the browser's program on PATH."""

OPTIONS = (
    "--no-sandbox",  # or it does not run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options under which the browser runs anywhere, and asks nobody on the network."""

_GENERATE = "/api/generate"
_MEASURE = "release to pixels"  # as main.js calls it
_MOVES, _MOVE_S = 12, 0.016  # of a short drag: one for each frame
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Speed:
    """What was measured. release_to_pixels_ms: for each drag. drag_s, drag_pictures: of the long drag, the pictures
    that were shown in it. most_in_flight: requests for a picture at one time, in the long drag."""

    release_to_pixels_ms: tuple[float, ...]
    drag_s: float
    drag_pictures: int
    most_in_flight: int

    @property
    def median_ms(self) -> float:
        """Half of the drags took no longer."""
        return statistics.median(self.release_to_pixels_ms)

    @property
    def p95_ms(self) -> float:
        """19 of 20 drags took no longer."""
        ordered = sorted(self.release_to_pixels_ms)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]


def browser_program() -> str:
    """The path of a browser's program. Raises MissingExtraError where there is none."""
    if program := next((found for name in BROWSERS if (found := shutil.which(name))), None):
        return program
    raise MissingExtraError("this needs Chromium; install it (Debian: apt-get install chromium)")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """A new headless browser. Raises MissingExtraError without Playwright or a browser's program."""
    require("playwright", "dev")
    from playwright.sync_api import sync_playwright

    program = browser_program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def bench_editor(model: Path, layout: Path, drags: int, drag_s: float, progress: Progress) -> Speed:
    """Measure `lostgan-serve edit` of a layout in a browser. drags, drag_s: see `measure`. Raises what it raises."""
    program = str(Path(sys.executable).parent / "lostgan-serve")
    command = [program, "edit", str(layout), "--model", str(model), "--port", "0"]
    with (
        subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True) as server,
        opened_browser() as browser,
    ):
        try:
            assert server.stdout
            address = re.search(r"http://\S+", server.stdout.readline())
            if address is None:
                raise ServerError("lostgan-serve edit did not start, as it says above")
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            return measure(page, address[0], drags, drag_s, progress)
        finally:
            server.kill()


def measure(page: Page, url: str, drags: int, drag_s: float, progress: Progress = SILENT) -> Speed:
    """Drag the smallest object of an editor's layout about, `drags` times for a fifth of a second and once for
    `drag_s` seconds.

    page: of a browser. url: of the editor, whose layout has an object at least. Raises ServerError where no picture
    comes in ten seconds.
    """
    traffic = _Traffic(page)
    page.goto(url)
    _until(lambda: traffic.finished > 0, page)
    took = []
    with progress.count("dragging", drags) as advance:
        for number in range(1, drags + 1):
            took.append(_one_drag(page, number))
            advance(number, f"{took[-1]:.0f} ms")
    traffic.reset()
    _long_drag(page, drag_s)
    _until(lambda: traffic.in_flight == 0, page)
    return Speed(tuple(took), drag_s, traffic.finished, traffic.most)


def speed_table(speed: Speed) -> list[str]:
    """The figures as a table in Markdown."""
    return table(
        ("from letting go to the picture", "of 19 in 20", "pictures a second in a drag", "requests in flight, at most"),
        [
            (
                f"{speed.median_ms:.0f} ms",
                f"{speed.p95_ms:.0f} ms",
                f"{speed.drag_pictures / speed.drag_s:.1f}",
                str(speed.most_in_flight),
            )
        ],
    )


class _Traffic:
    """Requests for pictures."""

    def __init__(self, page: Page) -> None:
        self.in_flight = 0
        self.reset()
        page.on("request", self._began)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def reset(self) -> None:
        self.finished, self.most = 0, self.in_flight

    def _began(self, request: Request) -> None:
        if _GENERATE in request.url:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)

    def _ended(self, request: Request) -> None:
        if _GENERATE in request.url:
            self.in_flight -= 1
            self.finished += 1


def _one_drag(page: Page, number: int) -> float:
    """Drag the object to another place. Returns the ms from letting go until the picture was on the screen."""
    count = len(_measured(page))
    (x, y), (left, top, side) = _middle(page), _stage(page)
    turn = 2.4 * number  # a golden angle: places spread evenly
    to_x, to_y = (start + side * (0.5 + 0.25 * wave(turn)) for start, wave in ((left, math.cos), (top, math.sin)))
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, _MOVES + 1):
        page.mouse.move(x + (to_x - x) * step / _MOVES, y + (to_y - y) * step / _MOVES)
        time.sleep(_MOVE_S)
    page.mouse.up()
    _until(lambda: len(_measured(page)) > count, page)
    return _measured(page)[-1]


def _long_drag(page: Page, seconds: float) -> None:
    (x, y), (left, top, side) = _middle(page), _stage(page)
    page.mouse.move(x, y)
    page.mouse.down()
    end = time.monotonic() + seconds
    for step in itertools.count():
        if time.monotonic() > end:
            break
        turn = 0.08 * step
        page.mouse.move(left + side * (0.5 + 0.25 * math.cos(turn)), top + side * (0.5 + 0.25 * math.sin(turn)))
        time.sleep(_MOVE_S)
    page.mouse.up()


def _middle(page: Page) -> tuple[float, float]:
    """Of the smallest object, in pixels of the page."""
    boxes = [box for place in page.locator(".object rect").all() if (box := place.bounding_box())]
    least = min(boxes, key=lambda box: box["width"] * box["height"])
    return least["x"] + least["width"] / 2, least["y"] + least["height"] / 2


def _stage(page: Page) -> tuple[float, float, float]:
    """The picture's left and top edge and its side."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"]


def _measured(page: Page) -> list[float]:
    found: list[float] = page.evaluate(f"performance.getEntriesByName('{_MEASURE}').map((entry) => entry.duration)")
    return found


def _until(condition: Callable[[], bool], page: Page) -> None:
    """Raises ServerError where that takes over ten seconds."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"{page.url.partition('#')[0]}: no new picture in {_PATIENCE_S:.0f} s")
        page.wait_for_timeout(10)
