"""A real browser, and an editor in it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from lostgan_export.bench.editor import BROWSERS

if TYPE_CHECKING:
    from playwright.sync_api import Page

Json = dict[str, Any]

needs_browser = pytest.mark.skipif(
    not any(map(which, BROWSERS)), reason="no Chromium on PATH; install Debian's package chromium to run this"
)

_WAIT_MS = 20_000


class EditorServer:
    """A process that runs `lostgan-serve edit`. url: of the page."""

    def __init__(self, model: Path, state: Path, *arguments: str, port: int = 0) -> None:
        self._command = [
            str(Path(sys.executable).parent / "lostgan-serve"),
            "edit",
            "--model",
            str(model),
            "--no-browser",
        ]
        self._arguments, self._state = arguments, state
        self.start(port)

    def start(self, port: int) -> None:
        """Start it, at a port where the last one was killed."""
        environment = os.environ | {"XDG_STATE_HOME": str(self._state), "PYTHONUNBUFFERED": "1"}
        command = [*self._command, "--port", str(port), *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found
        self.url = found[0]

    @property
    def port(self) -> int:
        return int(self.url.partition("#")[0].rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


class EditorPage:
    """The editor in a page, as a user sees it. asked: the layouts that pictures were asked of, in order."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.asked: list[Json] = []
        self.in_flight = self.most_in_flight = 0
        self.errors: list[str] = []
        page.on("request", self._began)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.set_default_timeout(_WAIT_MS)
        page.goto(url)
        page.locator("#model:not(:empty)").wait_for()

    def _began(self, request: Any) -> None:
        if "/api/generate" in request.url:
            self.asked.append(request.post_data_json)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def _ended(self, request: Any) -> None:
        self.in_flight -= "/api/generate" in request.url

    def settle(self) -> None:
        """Wait until the picture is that of the layout."""
        self.page.locator("#picture[aria-busy=false]").wait_for()

    def pixels(self) -> str:
        """Of the picture, once it is that of the layout."""
        self.settle()
        found: str = self.page.evaluate("document.querySelector('#picture').toDataURL()")
        return found

    def layout(self) -> Json:
        """The layout that the picture was asked of last."""
        self.settle()
        return self.asked[-1]

    def start_from(self, example: str) -> None:
        self.page.select_option("#examples", example)
        self.settle()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place of the picture, in shares of it, in pixels of the page."""
        box = self.page.locator("#stage").bounding_box()
        assert box
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8, release: bool = True) -> None:
        """Drag from a place of the picture to another one, in shares of it."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=steps)
        if release:
            self.page.mouse.up()

    def choose(self, id_: str) -> None:
        """Select an object in the list."""
        self.page.locator(f'.object-row[data-id="{id_}"] [data-action=select]').click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def says(self, words: str) -> None:
        """Wait until the status line holds words."""
        self.page.wait_for_function(
            "(words) => document.querySelector('#status').textContent.includes(words)", arg=words
        )
