"""Hostile and impatient clients of the editor's server: all are refused or bounded, and the user is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from editing import (
    QUICK,
    SLOW,
    SLOW_S,
    Editing,
    a_layout,
    editing,
    received,
)

Start = Callable[..., Editing]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editing]:
    """An editor with the usual limits. In the end it has printed nothing but its URL."""
    with editing(tmp_path_factory.mktemp("editor")) as running:
        yield running
        assert running.stop() == ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an editor with other limits."""
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(editing(tmp_path, **limits))


class TestBodies:
    def test_too_large_by_its_length(self, server: Editing) -> None:
        """Refused before a byte of it is there."""
        for path, most in (("/api/generate?outputs=image", 2**20), ("/api/open", 2**24)):
            with server.connect(server.post(path, f"Content-Length: {most + 1}")) as connection:
                assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        for length in ("99999999999999999999", "9" * 5000, "-1", "1e3", "0x10"):
            with server.connect(server.post("/api/open", f"Content-Length: {length}")) as connection:
                assert connection.recv(65536).split(b" ", 2)[1] in (b"400", b"413")

    def test_too_large_without_a_length(self, server: Editing) -> None:
        with server.connect(server.post("/api/generate?outputs=image", "Transfer-Encoding: chunked")) as connection:
            chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
            connection.sendall(16 * chunk)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):  # as much as may be
                connection.recv(1)
            connection.settimeout(20)
            connection.sendall(b"1\r\n \r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert server.generate(a_layout(QUICK)).status == 200

    def test_as_large_as_may_be(self, server: Editing) -> None:
        layout = json.dumps(a_layout(QUICK)).encode()
        assert server.ask("/api/generate?outputs=image", layout.ljust(2**20)).status == 200
        assert server.ask("/api/generate?outputs=image", layout.ljust(2**20 + 1)).status == 413
        assert server.ask("/api/open", layout.ljust(2**22)).status == 200

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "not JSON"),
            (b"null", "should be an object"),
            (b"[]", "holds no layout"),
            (b"7", "should be an object"),
            (b'"text"', "should be an object"),
            (b"\xff\xfe", "not UTF-8"),
            (b"\x00" * 100, "not JSON"),
            (b"[" * 500_000, "not a layout"),
            (b'{"objects":' * 80_000, "brackets"),
            (b'{"objects": [' + b"{}," * 300_000 + b"{}]}", "brackets"),
            (
                b'{"objects": [' + b'{"label":"sky","box":[0,0,1,1]},' * 30_000 + b'{"label":"sky","box":[0,0,1,1]}]}',
                "brackets",
            ),
            (b'{"objects": [{"label": "sky", "box": [0, 0, NaN, 1]}]}', "finite"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, Infinity, 1]}]}', "finite"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, 1e999, 1]}]}', "finite"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, true, 1]}]}', "valid number"),
            (b'{"objects": [{"label": "sky", "box": "0011"}]}', "box"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, 1, 1], "seed": 1e3}]}', "seed"),
            (b'{"seed": 99999999999999999999999, "objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}', "seed"),
            (b'{"seed": ' + b"9" * 5000 + b"}", "not a layout"),
            (b'{"seed": -1, "objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}', "seed"),
            (b'{"objects": [{"label": {"a": 1}, "box": [0, 0, 1, 1]}]}', "label"),
            (b'{"objects": [{"label": "\\ud800", "box": [0, 0, 1, 1]}]}', "label"),
            (b'{"objects": [{"label": "sky\\nsea", "box": [0, 0, 1, 1]}]}', "control character"),
            (b'{"objects": [{"label": "unicorn", "box": [0, 0, 1, 1]}]}', "unknown label"),
            (b'{"objects": {}}', "objects"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, 1, 1]}], "__proto__": 1}', "unknown field"),
            (b'{"objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}\n' * 2, "send one"),
        ],
    )
    def test_hostile_layouts_are_told_of_in_one_line(self, server: Editing, body: bytes, words: str) -> None:
        for path in ("/api/generate?outputs=image", "/api/coco", "/api/masks"):
            reply = server.ask(path, body)
            assert reply.status == 400
            assert words in reply.error
            assert len(reply.error) < 500

    @pytest.mark.parametrize("outputs", ["", "image,", "labels", "image;masks", "x" * 5000, "%00", "__class__"])
    def test_outputs_that_there_are_not(self, server: Editing, outputs: str) -> None:
        reply = server.generate(a_layout(QUICK), outputs)
        assert reply.status == 400
        assert "choose from image,object_map,masks" in reply.error
        assert len(reply.error) < 200

    def test_slow_ones(self, start: Start) -> None:
        running = start(body_s=0.3)
        head = running.post("/api/generate?outputs=image", "Content-Length: 100")
        with running.connect(head) as silent, running.connect(head) as dripping:
            began = time.monotonic()
            while time.monotonic() < began + 0.25:
                dripping.sendall(b" ")
                time.sleep(0.05)
            for connection in (silent, dripping):
                assert received(connection).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - began < 2

    def test_ends_within_one(self, server: Editing) -> None:
        with server.connect(server.post("/api/generate?outputs=image", "Content-Length: 100") + '{"obj'):
            pass
        assert server.generate(a_layout(QUICK)).status == 200


class TestConnections:
    def test_headers_that_take_too_long(self, start: Start) -> None:
        running = start(headers_s=1)
        began = time.monotonic()
        with (
            running.connect() as idle,
            running.connect("GET / HTTP/1.1\r\nHost: ") as slow,
            running.connect() as second,
        ):
            second.sendall(f"GET / HTTP/1.1\r\nHost: {running.host}\r\n\r\n".encode())
            assert second.recv(12) == b"HTTP/1.1 200"
            while time.monotonic() < began + 0.9:
                slow.sendall(b"1")
                second.sendall(b"G")
                time.sleep(0.1)
            assert received(idle) == received(slow) == b""
            assert received(second).endswith(b"</html>\n")  # of the answer that was read in part
        assert time.monotonic() - began < 3

    def test_idle_ones_do_not_lock_the_user_out(self, server: Editing) -> None:
        with ExitStack() as stack:
            idle = [stack.enter_context(server.connect("GET")) for _ in range(100)]
            assert server.generate(a_layout(QUICK)).status == 200
            idle[0].settimeout(1)
            assert received(idle[0]) == b""  # it was idle for longest
            idle[-1].settimeout(0.1)
            with pytest.raises(TimeoutError):
                idle[-1].recv(1)

    def test_many_at_once_are_bounded(self, start: Start) -> None:
        running = start(connections=8)
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(running.connect())
            assert running.ask("/").status == 200
            files = list(Path(f"/proc/{running.process.pid}/fd").iterdir())
            sockets = [file for file in files if file.exists() or "socket" in str(file.readlink())]
            assert len([file for file in sockets if "socket" in str(file.readlink())]) <= 8 + 4  # its own, too


class TestTheQueue:
    def test_one_at_a_time_where_the_runner_is_worth_no_more(self, server: Editing) -> None:
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: server.generate(a_layout(QUICK)), range(4)))
        assert [reply.status for reply in replies] == [200] * 4
        assert server.counted()[1] == 1

    def test_two_at_once_where_it_is(self, start: Start) -> None:
        running = start(concurrency=2)
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda _: running.generate(a_layout(SLOW)), range(2)))
        assert [reply.status for reply in replies] == [200, 200]
        assert time.monotonic() - began < 1.8 * SLOW_S
        assert running.counted()[1] == 2

    def test_the_page_is_answered_meanwhile(self, server: Editing) -> None:
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(server.generate, a_layout(SLOW))
            time.sleep(0.1)
            assert server.ask("/api/model").status == 200
            assert not slow.done()

    def test_clients_that_have_gone_are_not_computed(self, server: Editing) -> None:
        before, _ = server.counted()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(server.generate, a_layout(SLOW))
            time.sleep(0.1)
            body = json.dumps(a_layout(QUICK))
            head = server.post("/api/generate?outputs=image", f"Content-Length: {len(body)}")
            for _ in range(6):
                server.connect(head + body).close()
            assert slow.result().status == 200
        assert server.counted()[0] == before + 2

    def test_more_than_may_wait(self, start: Start) -> None:
        running = start(waiting=2)
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: running.generate(a_layout(SLOW)), range(6)))
        assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 3
        assert "try again" in next(reply.error for reply in replies if reply.status == 503)
        assert running.generate(a_layout(QUICK)).status == 200
