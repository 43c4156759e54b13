"""A process that runs the editor in front of a runner whose behaviour the first object's label chooses, and questions
to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conftest import EXAMPLES, a_manifest
from lostgan_serve.contract import Array, Tensors
from lostgan_serve.editor.guard import HEADERS, EditorLimits
from lostgan_serve.editor.running import edit
from lostgan_serve.errors import ServerUnavailableError
from lostgan_serve.progress import ConsoleProgress

EDIT = (str(Path(sys.executable).parent / "lostgan-serve"), "edit")
COAST = next(path for path in EXAMPLES if path.stem == "coast")

QUICK, SLOW, STUCK, ABSENT, FAULTY = "sky", "cloud", "rock", "moon", "sun"
"""Labels whose layouts are generated at once, in SLOW_S, in STUCK_S, not while there is a file `away`, and never."""

SLOW_S, STUCK_S = 0.5, 30
SECRET = "what the user drew"


class LabelRunner:
    """Slot k owns row k of the picture. A pixel of the image is how many batches were computed so far, how many at once
    at most, and 0."""

    def __init__(self, concurrency: int = 1) -> None:
        self.manifest = a_manifest("scenes", variant="v1-64")
        self.concurrency = concurrency
        self._count = self._running = self._most = 0
        self._lock = threading.Lock()

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        label = self.manifest.vocabulary.labels[int(tensors["labels"][0, 0])]
        if label == ABSENT and Path("away").exists():
            raise ServerUnavailableError("127.0.0.1:1: no server is ready")
        if label == FAULTY:
            raise RuntimeError(SECRET)
        with self._lock:
            self._count, self._running = self._count + 1, self._running + 1
            self._most = max(self._most, self._running)
            image = np.full((1, 64, 64, 3), (self._count, self._most, 0), np.uint8)
        time.sleep({SLOW: SLOW_S, STUCK: STUCK_S}.get(label, 0))
        with self._lock:
            self._running -= 1
        rows = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (1, 64, 64))
        slots = np.arange(self.manifest.slots)[:, None, None]
        object_map = np.where(rows < (tensors["labels"] > 0).sum(), rows, np.uint8(255))
        masks = np.where(rows == slots, np.uint8(200), np.uint8(0))[None]
        return {name: {"image": image, "object_map": object_map, "masks": masks}[name] for name in outputs}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The line that says what is wrong."""
        line = self.json["error"]
        assert isinstance(line, str)
        assert "\n" not in line
        assert "Traceback" not in line
        return line


@dataclass
class Editing:
    """A running editor, which ends with a block. folder: that it runs in."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    host: str = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        match = re.fullmatch(r"http://([\d.]+:\d+)/#token=([\w-]{32})", self.url)
        assert match, self.url
        self.host, self.token = match[1], match[2]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.host.rpartition(":")
        return host, int(port)

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The reply to a request, by default with the token; a POST where there is a body. It has the headers that
        every reply has."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            given = self.authorization if headers is None else dict(headers)
            connection.request(method or ("GET" if body is None else "POST"), path, body, given)
            response = connection.getresponse()
            reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()
        assert reply.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
        return reply

    def generate(self, layout: Any, outputs: str = "image") -> Reply:
        return self.ask(f"/api/generate?outputs={outputs}", json.dumps(layout).encode())

    def counted(self) -> tuple[int, int]:
        """How many batches were computed, the one that asks included, and how many at once at most."""
        body = self.generate(a_layout(QUICK)).body
        return body[0], body[1]

    def connect(self, text: str | bytes = b"") -> socket.socket:
        """A connection through which a text has been sent as it is."""
        connection = socket.create_connection(self.address, timeout=20)
        connection.sendall(text.encode("latin-1") if isinstance(text, str) else text)
        return connection

    def post(self, path: str, *headers: str) -> str:
        """The head of a POST with the token."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.token}", *headers]
        return "\r\n".join([*lines, "", ""])

    def stop(self) -> str:
        """End it. Returns what it printed as errors."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[1]

    def __enter__(self) -> Editing:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


def a_layout(*labels: str) -> dict[str, Any]:
    return {"objects": [{"label": label, "box": [0, 0, 1, 1]} for label in labels]}


def received(connection: socket.socket) -> bytes:
    """All that a connection brings until it ends."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def editing(folder: Path, concurrency: int = 1, **limits: float) -> Editing:
    """A process that runs the editor with a LabelRunner, in a folder."""
    return started([sys.executable, __file__, str(concurrency), json.dumps(limits)], folder)


def started(command: Sequence[str], folder: Path) -> Editing:
    """A process that runs an editor and prints its URL."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(folder),
        "TMPDIR": str(folder),
    }
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, process.communicate()[1]
    return Editing(process, found[0], folder)


def main(concurrency: int, limits: EditorLimits) -> None:
    """Run the editor, and end at once as the command does."""
    try:
        edit(LabelRunner(concurrency), port=0, limits=limits, on_ready=print, progress=ConsoleProgress())
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main(int(sys.argv[1]), EditorLimits(**json.loads(sys.argv[2])))
