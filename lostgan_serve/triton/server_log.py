"""The log of a tritonserver: passed on where it matters to a person, and searched for the reason of an end."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable
from typing import IO

from lostgan_serve.progress import Progress
from lostgan_serve.triton.server_folder import MORE_SHARED_MEMORY, SHARED_MEMORY

_KEPT_LINES = 200
_READ_S = 5.0

_PROBLEM = re.compile(r"[WE]\d{4} |\S*error: ", re.IGNORECASE)
_ANY_LEVEL = re.compile(r"[IWEF]\d{4} ")
_HARMLESS = ("pinned system memory", "CudaDriverHelper", "NVML", "DCGM")  # what every machine without a GPU is told
_LOADING, _LOADED = re.compile(r'"loading: (.+):\d+"'), re.compile(r"\"successfully loaded '(.+)'\"")
_MEMORY_FULL = "to control the shared memory region size"
_LONGEST = 500  # characters
_REASONS = (
    r"failed to load '.+?' version \d+: .+",
    r"(?i:\w*error: .+)",
    r"^Bad option.+",
    r"^\[err\] .+",
    r"^E\d{4} .+",
)


class ServerLog:
    """The output of one tritonserver, read by a thread until it ends.

    Warnings, errors and loaded models are told to `progress`; with verbose, every line is. Problems of the start are
    held back until `release` is called: where the start fails, the error says it all. names: pairs of a text in the
    log and the one that a person knows in its place.
    """

    def __init__(
        self, output: IO[str], progress: Progress, *, verbose: bool = False, names: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.count = 0  # of lines
        self._output, self._progress, self._verbose, self._names = output, progress, verbose, tuple(names)
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._held_back: list[str] | None = []
        self._loading: dict[str, None] = {}  # an ordered set
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def release(self) -> None:
        """Tell the problems that were held back, and hold none back from now on."""
        held_back, self._held_back = self._held_back or [], None
        for line in held_back:
            self._progress.note(line)

    def loading(self) -> str:
        """The models that the server has begun to load and not finished, as words of a sentence."""
        return f"while loading {', '.join(list(self._loading))}" if self._loading else "while no model was loading"

    def last_line(self) -> str:
        """The last line that says anything."""
        return next((line for line in reversed(list(self._lines)) if line.strip(" |+-")), "it printed nothing")

    def reason(self) -> str:
        """The line that tells best why the server ended. Call it after the end."""
        self.join()
        lines = [line for line in list(self._lines) if not _is_harmless(line)]
        for pattern in _REASONS:
            if found := next((match for line in lines if (match := re.search(pattern, line))), None):
                return _shortened(found[0].partition(r"\n")[0].rstrip('"'))
        return self.last_line()

    def join(self) -> None:
        """Wait, for a few seconds at most, until all of the output is read."""
        self._reader.join(_READ_S)

    def _read(self) -> None:
        is_problem = False
        for text in self._output:
            line = text.rstrip()
            for name, known_name in self._names:
                line = line.replace(name, known_name)
            self._lines.append(line)
            self.count += 1
            if begun := _LOADING.search(line):
                self._loading[begun[1]] = None
            elif loaded := _LOADED.search(line):
                self._loading.pop(loaded[1], None)
                self._progress.note(f"{loaded[1]} is ready")
            if _ANY_LEVEL.match(line) or _PROBLEM.match(line):  # other lines go on with the one before
                is_problem = bool(_PROBLEM.match(line)) and not _is_harmless(line)
            if is_problem and self._held_back is not None and not self._verbose:
                self._held_back.append(line)
            elif is_problem or self._verbose:
                self._progress.note(line)


def _shortened(reason: str) -> str:
    """A reason that a terminal has room for: Triton's may say the same for each layout of a batch."""
    if _MEMORY_FULL in reason:
        return f"{SHARED_MEMORY} is full; {MORE_SHARED_MEMORY}"
    return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."


def _is_harmless(line: str) -> bool:
    return any(words in line for words in _HARMLESS)
