"""A real tritonserver: how it is started, what it lets in, and what is left of it afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import MissingExtraError, ServerError
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.process import ADMIN_HEADER
from lostgan_serve.triton.server import Endpoints, running_server
from servers import MODEL, alive, family, leaves_nothing, serving, shared_memory, starting


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


def test_admin_apis_of_a_direct_server_are_locked(tiny_repository: Path) -> None:
    with running_server(tiny_repository, Exposure(direct=True)) as server:
        _admin_apis_are_locked(server)


def _admin_apis_are_locked(server: Endpoints) -> None:
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


def test_admin_apis_are_for_this_user_alone(server: Endpoints) -> None:
    """They are not served where the network is, and need no key where tritonserver listens: nobody else gets there."""
    client = triton_grpc.InferenceServerClient(server.grpc)
    for call in (client.get_model_repository_index, client.get_log_settings):
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            call(headers={f"triton-grpc-protocol-{ADMIN_HEADER}": server.admin_key})
    own = triton_grpc.InferenceServerClient(server.admin)
    assert [model.name for model in own.get_model_repository_index().models if model.state == "READY"] == [MODEL]
    folder = Path(server.admin.removeprefix("unix:")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    command_line = Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8")
    assert server.admin_key not in command_line


# Starting and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_by_signal(tiny_repository: Path, number: signal.Signals) -> None:
    process, _ = serving(tiny_repository)
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
    assert not shared_memory(process.pid)


def test_server_that_is_killed_is_started_again(tiny_repository: Path) -> None:
    process, (http, _, _) = serving(tiny_repository)
    assert process.stderr
    with leaves_nothing(process) as tritonserver:
        os.kill(tritonserver, signal.SIGKILL)
        told = [process.stderr.readline() for _ in range(4)]
        assert any("tritonserver was ended by SIGKILL" in line and "starting" in line for line in told)
        assert told[-1].startswith("tritonserver is ready again")
        assert urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=10).status == 200
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_parent_is_killed(tiny_repository: Path) -> None:
    process, _ = serving(tiny_repository)
    tritonserver, stubs = family(process.pid)
    process.kill()
    end = time.monotonic() + 20
    while any(map(alive, (tritonserver, *stubs))):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_command_prints_where_it_answers(tiny_repository: Path) -> None:
    command = [str(Path(sys.executable).parent / "lostgan-serve"), "serve", "--repository", str(tiny_repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(5)]
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert re.fullmatch(
        r"HTTP +http://127.0.0.1:\d+\ngRPC +127.0.0.1:\d+\nmetrics +http://127.0.0.1:\d+/metrics\n"
        rf"models +{MODEL}\nCtrl-C .+\n",
        "".join(lines),
    )
    assert errors == f"{MODEL} is ready\n"
    assert process.returncode == 0


def test_a_log_of_json_lines(tiny_repository: Path) -> None:
    command = [str(Path(sys.executable).parent / "lostgan-serve"), "serve", "--repository", str(tiny_repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen([*command, *ports, "--log", "json"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        events = [json.loads(process.stderr.readline()) for _ in range(3)]
        process.terminate()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert [event["level"] for event in events] == ["warning", "info", "info"]
    assert "lets others reach the server, and nothing is encrypted" in events[0]["message"]
    assert (events[2]["message"], events[2]["models"], events[2]["tls"]) == ("ready", [MODEL], False)
    assert all(datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0) for event in events)


@pytest.mark.usefixtures("server")
def test_versions_stay_as_they_were_exported(tiny_repository: Path) -> None:
    version = tiny_repository / MODEL / "1"
    assert sorted(path.name for path in version.iterdir()) == ["manifest.json", "model.onnx", "model.py"]


def test_tritonserver_on_path_comes_first(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\necho "$@" > "$0.arguments"\necho "error: creating server: no GPU today"\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerError, match="no GPU today"), running_server(tiny_repository):
        pass
    arguments = Path(f"{fake}.arguments").read_text(encoding="utf-8")
    assert f"--load-model={MODEL}" in arguments
    assert "--allow-http=false" in arguments
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
        found = importlib.util.find_spec("pytriton")
        assert found
        found.submodule_search_locations = [str(tiny_repository)]
        patch.setattr("importlib.util.find_spec", lambda _: found)
        with pytest.raises(ServerError, match="the nvidia-pytriton package is not whole; install it again"):
            starts()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"pip install 'lostgan-serve\[server\]'.*nvcr.io"):
            starts()


# Addresses


@pytest.mark.parametrize(
    ("host", "shown"), [("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")]
)
def test_all_endpoints_answer_where_they_are_said_to(tiny_repository: Path, host: str, shown: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with running_server(tiny_repository, Exposure(host)) as endpoints:
        for endpoint in (endpoints.http, endpoints.grpc, endpoints.metrics):
            assert endpoint.rpartition(":")[0] == shown
        assert urllib.request.urlopen(f"http://{endpoints.http}/v2/health/ready", timeout=10).status == 200
        assert b"nv_inference" in urllib.request.urlopen(f"http://{endpoints.metrics}/metrics", timeout=10).read()
        assert triton_grpc.InferenceServerClient(endpoints.grpc).is_server_ready(client_timeout=10)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-such-name.invalid", "no such address or name"),
        ("a..b", "no such address or name"),
        ("", "no such address or name"),
        ("192.0.2.1", "this machine has no such address"),
        ("2001:db8::1", "this machine has no such address"),
        ("255.255.255.255", "cannot connect to it"),
        ("fe80::1%lo", "no address with a zone"),
    ],
)
def test_address_that_cannot_be_listened_at(cli: Cli, tiny_repository: Path, host: str, words: str) -> None:
    fails_in_one_line(
        cli("serve", "--repository", tiny_repository, "--http-port", 0, "--host", host), ["--host", words]
    )


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_port_is_taken(cli: Cli, tiny_repository: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--http-port": 0, "--grpc-port": 0, "--metrics-port": 0} | {option: port}
        done = cli("serve", "--repository", tiny_repository, *(word for pair in ports.items() for word in pair))
    fails_in_one_line(done, [f"port {port}", option])


def test_port_that_is_given_twice(cli: Cli, tiny_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    done = cli("serve", "--repository", tiny_repository, "--http-port", port, "--metrics-port", 0, "--grpc-port", port)
    fails_in_one_line(done, [f"port {port} is asked for twice, with --http-port and --grpc-port"])


def test_port_that_does_not_exist(cli: Cli) -> None:
    done = cli("serve", "--grpc-port", 99999)
    assert done.returncode == 2
    assert "'--grpc-port': 99999 is not in the range" in done.stderr
