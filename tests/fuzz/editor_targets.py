"""Requests to the editor's server, byte for byte as a connection brings them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
from queue import Queue
from random import Random

import h11

from conftest import EXAMPLES
from fuzz.guard import Find
from fuzz.mutations import Seeds, of_bytes, of_json
from fuzz.targets import Fuzzed, Materials, coco_of_scenes, whole
from lostgan_serve.editor.running import edit
from lostgan_serve.errors import LostganError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.triton.addresses import LOOPBACK

_REFUSALS = frozenset((400, 403, 404, 405, 408, 413, 421, 502))
"""The statuses of answers that refuse; 500 is a fault, and 503 cannot be, since nobody else asks."""


class _Faults(Progress):
    """Keeps what the server says of faults of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def open_requests(materials: Materials) -> Fuzzed:
    """Requests to the real server in front of a real model, each through a connection of its own."""
    runner = OnnxRunner(materials.model, threads=1, providers=["CPUExecutionProvider"])
    faults, urls = _Faults(), Queue[str]()
    os.environ["XDG_STATE_HOME"] = str(materials.scratch)  # where the token is kept
    server = threading.Thread(
        target=lambda: edit(runner, port=0, on_ready=urls.put, progress=faults), name="editor", daemon=True
    )
    server.start()
    found = re.search(r":(\d+)/#token=(.+)", urls.get(timeout=30))
    assert found
    port, token = int(found[1]), found[2]

    def target(data: bytes) -> None:
        _check(_status_and_body(port, data))
        if faults.lines:
            raise Find("a fault of the server", faults.lines.pop())
        if not server.is_alive():
            raise Find("the server has ended")

    return Fuzzed(target, _requests(port, token), _changed)


def _status_and_body(port: int, data: bytes) -> tuple[int, bytes] | None:
    """The first reply to these bytes; None where there is none, as for half of a request, whose end never comes."""
    with socket.create_connection((LOOPBACK, port), timeout=8) as connection:
        method = _method(data)
        response = http.client.HTTPResponse(connection, method=method)
        try:
            connection.sendall(data)
            if method is None:
                connection.shutdown(socket.SHUT_WR)
            response.begin()
            return response.status, response.read()
        except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
            if method is not None:
                raise Find("no reply to a whole request") from None
            return None
        except TimeoutError:
            raise Find("a reply that does not end") from None
        except (http.client.HTTPException, ValueError) as error:
            raise Find("a reply that is no HTTP", repr(error)) from None


def _method(data: bytes) -> str | None:
    """The method of the first request in these bytes; None where it goes on: there need be no reply then.

    What can be no request, whatever follows, is "" here, and needs a reply.
    """
    if not data:  # which h11 takes for the end of the connection
        return None
    parser, method = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16), ""
    try:
        parser.receive_data(data)
        while (event := parser.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                method = event.method.decode()
            if event is h11.PAUSED or isinstance(event, h11.EndOfMessage):
                return method
    except h11.RemoteProtocolError:
        return method
    return None


def _check(reply: tuple[int, bytes] | None) -> None:
    """A refusal says why in one line. Raises LostganError with it, and where there is no reply."""
    if reply is None:
        raise LostganError("the connection ends: it brought no whole request")
    status, body = reply
    if status != 200:
        whole(status in _REFUSALS, f"status {status}")
        raise LostganError(json.loads(body)["error"] if body[:1] == b"{" else body.decode() or f"status {status}")


def _requests(port: int, token: str) -> list[bytes]:
    layout, coco = EXAMPLES[0].read_bytes(), coco_of_scenes(1)
    posts = {
        "generate?outputs=image": layout,
        "generate?outputs=image,object_map,masks": layout,
        "open?name=file.json": coco,
        "open": layout,
        "coco": layout,
        "masks": layout,
    }
    gets = ("/", "/api/model", "/api/schema", "/page/main.js")
    return [
        *(_request(port, token, f"POST /api/{path} HTTP/1.1", body) for path, body in posts.items()),
        *(_request(port, token, f"GET {path} HTTP/1.1", b"") for path in gets),
    ]


def _request(port: int, token: str, line: str, body: bytes) -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    head = [line, f"Host: {LOOPBACK}:{port}", f"Authorization: Bearer {token}", *length, "Connection: close", "", ""]
    return "\r\n".join(head).encode() + body


_LINES = (
    *(b"POST /api/open?name=%00%0a.json HTTP/1.1", b"GET /page/../answers.py HTTP/1.1", b"GET //x/..%2f..%2f HTTP/1.1"),
    *(b"POST /api/generate?outputs=image,image,x HTTP/1.1", b"HEAD / HTTP/1.1", b"PUT /api/coco HTTP/1.0"),
    *(
        b"Host: evil.example",
        b"Origin: http://evil.example",
        b"Sec-Fetch-Site: cross-site",
        b"Content-Length: 99999999",
    ),
    *(b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Expect: 100-continue"),
    *(b"Authorization: Bearer", b"Authorization: Bearer \xff", b"Connection: upgrade", b"X: " + b"x" * 70_000),
)


def _changed(random: Random, seeds: Seeds) -> bytes:
    """A request whose bytes or lines are changed, or, more often, a valid head with a body that is changed."""
    kind = random.randrange(8)
    if kind == 0:
        return of_bytes(random, seeds)
    if kind == 1:
        head, _, body = random.choice(seeds).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        where = random.randrange(len(lines))
        lines[where : where + random.randrange(2)] = [random.choice(_LINES)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body
    head, _, body = random.choice([seed for seed in seeds if seed.startswith(b"POST")]).partition(b"\r\n\r\n")
    body = (of_bytes if kind == 2 else of_json)(random, [body])
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body
