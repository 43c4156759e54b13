"""A real tritonserver: how it is started, what it lets in, and what is left of it afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import MODEL, leaves_nothing, serving, shared_memory, starting
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from lostgan_serve.errors import ServerError
from lostgan_serve.triton.server import ADMIN_HEADER, Endpoints, running_server


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


def test_admin_apis_are_locked(server: Endpoints) -> None:
    for method, path in (
        ("POST", "repository/index"),
        ("POST", f"repository/models/{MODEL}/unload"),
        ("GET", "systemsharedmemory/status"),
        ("GET", "trace/setting"),
        ("GET", "logging"),
    ):
        request = urllib.request.Request(f"http://{server.http}/v2/{path}", method=method)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
    request.add_header(ADMIN_HEADER, server.admin_key)
    assert urllib.request.urlopen(request).status == 200

    client = triton_grpc.InferenceServerClient(server.grpc)
    calls = [
        client.get_model_repository_index,
        client.get_system_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="restricted"):
            call()
        call(headers={f"triton-grpc-protocol-{ADMIN_HEADER}": server.admin_key})


# Starting and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_by_signal(tiny_repository: Path, number: signal.Signals) -> None:
    process = serving(tiny_repository)
    with leaves_nothing(process):
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors


@pytest.mark.parametrize("delay_s", [0.02, 0.3])
def test_stop_by_signal_during_the_start(tiny_repository: Path, delay_s: float) -> None:
    process = starting(tiny_repository)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == ""
    assert not shared_memory(process)


def test_server_is_killed(tiny_repository: Path) -> None:
    process = serving(tiny_repository)
    with leaves_nothing(process) as tritonserver:
        os.kill(tritonserver, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGKILL
        assert "tritonserver was ended by SIGKILL" in errors


def test_parent_is_killed(tiny_repository: Path) -> None:
    process = serving(tiny_repository)
    with leaves_nothing(process):
        process.kill()


@pytest.mark.usefixtures("server")
def test_versions_stay_as_they_were_exported(tiny_repository: Path) -> None:
    version = tiny_repository / MODEL / "1"
    assert sorted(path.name for path in version.iterdir()) == ["manifest.json", "model.onnx", "model.py"]


@pytest.mark.parametrize("option", ["http_port", "grpc_port", "metrics_port"])
def test_port_is_taken(tiny_repository: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"port {port} .*--{option.replace('_', '-')}"
        with pytest.raises(ServerError, match=message), running_server(tiny_repository, **{option: port}):
            pass
        assert taken.fileno() >= 0


def test_broken_model(tmp_path: Path, tiny_repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_repository, tmp_path, dirs_exist_ok=True)
    model = tmp_path / MODEL / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:10000])
    before = list(Path("/dev/shm").iterdir())
    with pytest.raises(ServerError) as caught, running_server(tmp_path):
        pass
    assert re.search(rf"failed to load '{MODEL}'.*{re.escape(str(model))}.*export it again", str(caught.value))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the error says it all
    assert not [path for path in Path("/dev/shm").glob("lostgan-serve-*") if path not in before]


def test_tritonserver_on_path_comes_first(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\necho "$@" > "$0.arguments"\necho "error: creating server: no GPU today"\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerError, match="no GPU today"), running_server(tiny_repository):
        pass
    arguments = Path(f"{fake}.arguments").read_text()
    assert f"--load-model={MODEL}" in arguments
    assert "--http-address=127.0.0.1" in arguments
    assert "--model-config-name" not in arguments


def test_python_that_does_not_suit_the_server(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starts() -> None:
        with running_server(tiny_repository):
            pass

    with monkeypatch.context() as patch:
        patch.setattr("numpy.__version__", "2.4.0")
        with pytest.raises(ServerError, match="pip install 'numpy<2'"):
            starts()
    with monkeypatch.context() as patch:
        patch.setattr("sys.base_prefix", "/nowhere")
        patch.setattr("sysconfig.get_config_var", lambda _: "/nowhere")
        with pytest.raises(ServerError, match=r"libpython3.*Debian's package"):
            starts()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(Exception, match=r"pip install 'lostgan-serve\[server\]'.*nvcr.io"):
            starts()
