"""Where tests run the commands of documents: a folder that looks like a clone of this repository, and a shell in it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from conftest import ROOT
from documents import Block, blocks

_LIMIT_S = 300
_PORTS = {"http_port": 8000, "grpc_port": 8001, "metrics_port": 8002}
"""The server's ports in the documents. Tests take free ones in their place."""


class Terminal:
    """A folder that looks like a clone, and a shell in it that runs what documents say."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.folder, self._ports = folder, ports
        self._programs = folder / ".programs"

    @classmethod
    def fresh(cls, folder: Path) -> Terminal:
        terminal = cls(folder, _free_ports())
        terminal._programs.mkdir(parents=True)
        for name in ("examples", "checkpoints", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        defaults = {"serve": terminal._ports, "client": {"url": f"localhost:{terminal._ports['grpc_port']}"}}
        code = f"from lostgan_serve.commands import main; main(prog_name='lostgan-serve', default_map={defaults!r})"
        program = terminal._programs / "lostgan-serve"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
        program.chmod(0o755)
        return terminal

    def copied(self, folder: Path) -> Terminal:
        """The same, with all files, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Terminal(folder, self._ports)

    def run(self, document: Path) -> None:
        """Run a document from its beginning to its end."""
        printed = ""
        with ExitStack() as stack:
            for block in blocks(document):
                if block.language == "text" and block.info == "output":
                    for line in block.text.splitlines():
                        assert line in printed, f"{block}: {line!r} was not printed, but:\n{printed}"
                elif block.language in ("sh", "python") and not block.info.startswith("not-run"):
                    if block.info == "server":
                        stack.enter_context(self._serving(block))
                    else:
                        printed = self._printed(block)

    def _printed(self, block: Block) -> str:
        command, environment = self._command(block), self._environment
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=_LIMIT_S
        )
        printed = done.stdout + done.stderr
        assert done.returncode == (2 if block.info == "exit-2" else 0), f"{block}:\n{printed}"
        assert "Traceback" not in printed, f"{block}:\n{printed}"
        return printed

    @contextmanager
    def _serving(self, block: Block) -> Iterator[None]:
        command = ["timeout", "--signal=INT", str(_LIMIT_S), *self._command(block)]
        with subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            try:
                assert any(line.startswith("Ctrl-C") for line in process.stdout), f"{block}: the server is not ready"
                yield
            finally:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, f"{block}: the server did not end well"

    def _command(self, block: Block) -> list[str]:
        text = block.text
        for name, port in _PORTS.items():
            text = text.replace(f"localhost:{port}", f"localhost:{self._ports[name]}")
        if block.language == "python":
            return [sys.executable, "-c", text]
        if block.info == "server":
            text = f"exec {text}"
        return ["bash", "-euo", "pipefail", "-c", text]

    @property
    def _environment(self) -> dict[str, str]:
        folders = (self._programs, Path(sys.executable).parent, os.environ["PATH"])
        return os.environ | {"PATH": os.pathsep.join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:  # all are held at once, so that no port is given twice
        listening = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in _PORTS}
        return {name: int(each.getsockname()[1]) for name, each in listening.items()}
