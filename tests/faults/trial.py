"""One test of the suite: its processes, its counts and its random moments."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.leftovers import Traces
from faults.load import ClientCommand, Load, Truth
from faults.serving import COMMAND, Serve
from faults.tally import Tally

_LIMIT_S = 240.0
_LONGEST_LINE = 1000


@dataclass
class Trial:
    """All that a test of the suite works with.

    seed: of its random moments. folder: an empty one. repository: of the model that is served; not to be changed.
    pictures: the folder with the right pictures of every layout.
    """

    seed: str
    folder: Path
    repository: Path
    truth: Truth
    pictures: Path
    traces: Traces
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    @property
    def model(self) -> Path:
        """The served model's folder."""
        return self.truth.folder

    def serve(self, repository: Path | None = None, prefix: Sequence[str] = ()) -> Serve:
        """A server that a supervisor keeps; it runs while the block does."""
        return Serve(repository or self.repository, self.traces, self.folder, prefix)

    def load(self, *urls: str) -> Load:
        """Clients that ask servers while the block runs."""
        return Load(urls, self.truth, self.tally, self.seed)

    def client(self, url: str) -> ClientCommand:
        """The command `client`, which fills the folder `out`."""
        return ClientCommand(url, self.folder / "out", self.traces)

    def run(self, *words: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in the empty folder."""
        return subprocess.run(
            [*prefix, COMMAND, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            env=self.traces.environment,
            cwd=self.folder,
        )

    def check_told(self, done: subprocess.CompletedProcess[str], *words: str) -> None:
        """Assert that a command ended by one line that a person understands, and that it holds one of `words`."""
        lines = done.stderr.strip().splitlines() or [""]
        assert done.returncode in {1, 2}, f"exit code {done.returncode}: {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert lines[-1].startswith("error: "), done.stderr
        assert len(lines[-1]) <= _LONGEST_LINE, lines[-1]
        assert not words or any(word in lines[-1] for word in words), lines[-1]
        self.tally.told.append(lines[-1])
