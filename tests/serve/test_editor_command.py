"""The command `edit`: its token, its models, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from conftest import EXAMPLES, ROOT, Cli, fails_in_one_line
from editing import COAST, EDIT, QUICK, STUCK, Editing, Reply, a_layout, editing, started
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import generate
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.server import running_server
from servers import until


class TestTheToken:
    def test_is_kept_and_the_users_alone(self, tmp_path: Path) -> None:
        with editing(tmp_path) as first, editing(tmp_path) as second:
            assert first.token == second.token
            assert (first.stop(), second.stop()) == ("", "")
        assert stat.S_IMODE((tmp_path / "lostgan-serve" / "editor-token").stat().st_mode) == 0o600

    @pytest.mark.parametrize("fault", ["others may read it", "a link", "a folder", "not writable"])
    def test_that_cannot_be_kept_is_new_each_time(self, tmp_path: Path, fault: str) -> None:
        folder = tmp_path / "lostgan-serve"
        file = folder / "editor-token"
        file.parent.mkdir()
        if fault == "others may read it":
            file.write_text("x" * 32)
            file.chmod(0o644)
        elif fault == "a link":
            file.symlink_to(tmp_path / "elsewhere")
        elif fault == "a folder":
            file.mkdir()
        else:
            folder.rmdir()
            folder.write_text("")
        with editing(tmp_path) as running:
            assert running.token != "x" * 32
            assert running.ask("/api/model").status == 200
            assert running.stop().startswith("note: the token is a new one at each start")
        assert not (tmp_path / "elsewhere").exists()

    def test_what_is_no_token_is_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "lostgan-serve" / "editor-token"
        file.parent.mkdir()
        file.write_text("short")
        file.chmod(0o600)
        with editing(tmp_path) as running:
            assert file.read_text() == running.token


class TestTheCommand:
    @pytest.fixture(scope="class")
    def running(self, tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path) -> Iterator[Editing]:
        """With the real model, and a layout to begin with."""
        arguments = [str(COAST), "--model", str(tiny_repository / "lostgan_128"), "--port", "0", "--no-browser"]
        with started([*EDIT, *arguments], tmp_path_factory.mktemp("command")) as running:
            yield running

    def test_images_are_those_of_generate(self, running: Editing, tiny_model: Path) -> None:
        for path in EXAMPLES[:3]:
            reply = running.ask("/api/generate?outputs=image,object_map,masks", path.read_bytes())
            with closing(OnnxRunner(tiny_model)) as runner:
                (expected,) = generate([Layout.load(path)], runner)
            outputs = (expected.image, expected.object_map, expected.masks)
            assert reply.body == b"".join(output.tobytes() for output in outputs if output is not None)

    def test_the_page_begins_with_its_layout(self, running: Editing, tiny_repository: Path) -> None:
        model = running.ask("/api/model").json
        assert model["start"]["layout"] == Layout.load(COAST).to_json()
        assert model["name"] == "lostgan_128"
        assert model["command"] == ["lostgan-serve", "generate", "-", "--model", str(tiny_repository / "lostgan_128")]

    def test_a_port_that_is_taken(self, running: Editing, cli: Cli, tiny_model: Path) -> None:
        done = cli("edit", "--model", tiny_model, "--port", running.address[1], "--no-browser")
        fails_in_one_line(done, [f"port {running.address[1]}", "choose another with --port"])

    def test_layouts_that_the_model_cannot_generate(self, cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
        file = tmp_path / "layout.json"
        for layout, words in (
            (a_layout("unicorn"), ["objects[0].label", "unicorn"]),
            (a_layout(QUICK) | {"seed": 2**60}, ["seed", 2**53 - 1]),
        ):
            file.write_text(json.dumps(layout))
            fails_in_one_line(cli("edit", file, "--model", tiny_model, "--port", "0", "--no-browser"), [file, *words])

    def test_an_address_that_is_not_this_machines(self, cli: Cli, tiny_model: Path) -> None:
        done = cli("edit", "--model", tiny_model, "--host", "192.0.2.1", "--no-browser")
        fails_in_one_line(done, ["--host 192.0.2.1", "no such address"])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nothing.json"], ["nothing.json", "no such file"]),
            ([str(ROOT / "LICENSE")], ["LICENSE", "not JSON"]),
            (["--model", "nothing"], ["nothing"]),
            (["--url", "127.0.0.1:1"], ["127.0.0.1:1", "no server is ready"]),
            (["--url", "127.0.0.1:1", "--runner", "onnxrt"], ["--runner", "--url"]),
            (["--tls-ca", "ca.pem"], ["--tls-ca", "--url"]),
        ],
    )
    def test_bad_input(self, cli: Cli, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
        fails_in_one_line(cli("edit", *arguments, "--no-browser", cwd=tmp_path), words)

    def test_several_layouts(self, cli: Cli) -> None:
        fails_in_one_line(cli("edit", "-", stdin=f"{json.dumps([a_layout(QUICK)] * 2)}"), ["2 layouts", "one"])

    def test_with_all_addresses_any_of_them_is_the_host(self, tmp_path: Path, tiny_model: Path) -> None:
        arguments = ["--model", str(tiny_model), "--host", "0.0.0.0", "--port", "0", "--no-browser"]
        with started([*EDIT, *arguments], tmp_path) as running:
            port = running.address[1]
            hosts = {f"192.0.2.7:{port}": 200, f"{socket.gethostname()}:{port}": 200, f"evil.example:{port}": 421}
            for host, status in hosts.items():
                assert running.ask("/api/model", headers=running.authorization | {"Host": host}).status == status
            assert "warning: --host 0.0.0.0" in running.stop()

    def test_a_triton_server_that_restarts(self, tiny_repository: Path, tiny_model: Path, tmp_path: Path) -> None:
        def image() -> Reply:
            return running.ask("/api/generate?outputs=image", COAST.read_bytes())

        with closing(OnnxRunner(tiny_model)) as runner:
            (result,) = generate([Layout.load(COAST)], runner, ["image"])
        assert result.image is not None
        expected = result.image.tobytes()
        with ExitStack() as stack:
            with running_server(tiny_repository) as server:
                arguments = ["--url", server.grpc, "--port", "0", "--no-browser"]
                running = stack.enter_context(started([*EDIT, *arguments], tmp_path))
                assert image().body == expected
                command = ["lostgan-serve", "client", "-", "--url", server.grpc, "--model", "lostgan_128"]
                assert running.ask("/api/model").json["command"] == command
            began = time.monotonic()
            assert image().status == 502
            assert time.monotonic() - began < 5
            assert "no server is ready" in image().error
            grpc_port = int(server.grpc.rpartition(":")[2])
            with running_server(tiny_repository, Exposure(ports=(0, grpc_port, 0))):
                until(lambda: image().body == expected)

    def test_ctrl_c_ends_it_at_once(self, tmp_path: Path) -> None:
        """Also while a picture is generated."""
        body = json.dumps(a_layout(STUCK))
        with editing(tmp_path) as running:
            request = running.post("/api/generate?outputs=image", f"Content-Length: {len(body)}") + body
            with running.connect(request):
                time.sleep(0.2)
                running.process.send_signal(signal.SIGINT)
                assert running.process.wait(5) == 130
