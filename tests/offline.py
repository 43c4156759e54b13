"""Commands in a network of their own, where every call for a network is written down."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CLI = str(Path(sys.executable).parent / "lostgan-serve")

_SPEAKING = re.compile(r"^\d+ +(?:connect|sendto|sendmsg|sendmmsg)\(", re.MULTILINE)
_ADDRESS = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, |AF_INET6, )"([^"]+)"')
_FOLDERS = {"HOME": "home", "TMPDIR": "tmp"}
_LEFT_OUT = ("XDG_", "TORCH_HOME", "MPLCONFIGDIR", "CI", "TF_BUILD", "JENKINS_URL")
"""Beginnings of variables that name other folders, or that make some packages send nothing."""


@dataclass(frozen=True)
class Offline:
    """Folders for commands that run offline: an empty home, an empty place for temporary files, and one to work in."""

    folder: Path

    def __post_init__(self) -> None:
        for name in (*_FOLDERS.values(), "work"):
            (self.folder / name).mkdir()

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def run(self, *command: object) -> str:
        """Run a command that ends well. Returns what it printed, errors included."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}
        folders = {variable: str(self.folder / name) for variable, name in _FOLDERS.items()}
        words = [*_namespace(), "strace", "-f", "-qq", "--seccomp-bpf", "-s", "64", "-e", "trace=network"]
        process = subprocess.Popen(
            [*words, "-o", str(self.folder / "trace"), *map(str, command)],
            cwd=self.work,
            env=inherited | folders,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=240)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, printed
        return printed

    def spoken_to(self) -> set[str]:
        """The addresses that the last command connected or sent to."""
        return set(addresses((self.folder / "trace").read_text("utf-8", "replace")))

    def left(self) -> list[str]:
        """The files and folders in the home and among the temporary files."""
        tops = [self.folder / name for name in _FOLDERS.values()]
        return sorted(str(path.relative_to(self.folder)) for top in tops for path in top.rglob("*"))


def addresses(trace: str) -> Iterator[str]:
    """The internet addresses that the lines of a trace send to. Those without an answer yet are there, too."""
    for line in trace.splitlines():
        if _SPEAKING.match(line):
            yield from _ADDRESS.findall(line)


def strangers(spoken_to: set[str]) -> set[str]:
    """The addresses that are not this machine's own."""
    return {text for text in spoken_to if not ipaddress.ip_address(text.removeprefix("::ffff:")).is_loopback}


def _namespace() -> list[str]:
    """The words that run a command in a network of its own, of which there is the loopback alone."""
    own = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*own, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def require_offline() -> None:
    """Skip the test, with the reason, where this machine allows no such network."""
    for program in ("unshare", "ip", "strace"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here")
    tried = subprocess.run([*_namespace(), "strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespace, or no tracing, is allowed here: {tried.stderr.strip()}")
