"""The gateway: what Triton answers over HTTP and gRPC, and none of what brings Triton down."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient import grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from conftest import Cli, fails_in_one_line
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES
from lostgan_serve.errors import RequestError, ServerError
from lostgan_serve.progress import SILENT
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.runners.triton.grpc_transport import infer_request
from lostgan_serve.runners.triton.transport import triton_type
from lostgan_serve.triton.addresses import LOOPBACK, find_addresses
from lostgan_serve.triton.check import check
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.front_door import FrontDoor
from lostgan_serve.triton.gateway.settings import Settings, Status
from lostgan_serve.triton.process import Launch
from lostgan_serve.triton.server import Endpoints, running_server
from servers import MODEL, asked, assert_answers, layouts, memory_mib

pytestmark = pytest.mark.slow

INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> Iterator[OnnxRunner]:
    with closing(OnnxRunner(tiny_model)) as runner:
        yield runner


@pytest.fixture
def gateway(server: Endpoints) -> Iterator[Callable[..., Settings]]:
    """Starts another gateway to the same server, with limits of its own."""
    folder = Path(server.admin.removeprefix("unix:")).parent
    with ExitStack() as stack:

        def start(**limits: Any) -> Settings:
            found = find_addresses(LOOPBACK, 0, 0, 0)
            settings = Settings(str(folder), LOOPBACK, found.http_port, found.grpc_port, found.metrics_port, 100_000)
            settings = replace(settings, **limits)
            stack.enter_context(FrontDoor(settings, SILENT)).tell(Status(True, ""))
            return settings

        yield start


def in_json(tensors: dict[str, Any], outputs: Sequence[object]) -> dict[str, Any]:
    """A request with all numbers in JSON."""
    inputs = [
        {"name": name, "datatype": triton_type(array.dtype), "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in tensors.items()
    ]
    return {"id": "7", "inputs": inputs, "outputs": list(outputs)}


# What Triton answers


def test_answers_are_those_of_triton_itself(server: Endpoints, tiny_repository: Path) -> None:
    paths = ["/v2", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1", f"/v2/models/{MODEL}/config"]
    paths += ["/v2/models/nowhere", f"/v2/models/{MODEL}/versions/9/config"]
    with running_server(tiny_repository, Exposure(direct=True)) as direct:
        for path in paths:
            (status, found), (own_status, own) = asked(server.http, path), asked(direct.http, path)
            assert status == own_status, path
            expected = json.loads(own)
            assert {name: json.loads(found).get(name) for name in expected} == expected
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        assert asked(server.http, path)[0] == 200


def test_tritons_own_clients_work(server: Endpoints, local: OnnxRunner) -> None:
    tensors = layouts(2)
    expected = local.run(tensors, OUTPUT_NAMES)
    for client, kind in (
        (triton_http.InferenceServerClient(server.http), triton_http),
        (triton_grpc.InferenceServerClient(server.grpc), triton_grpc),
    ):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.get_model_metadata(MODEL)
        assert client.get_inference_statistics(MODEL)
        inputs = [kind.InferInput(name, tensors[name].shape, triton_type(tensors[name].dtype)) for name in INPUT_NAMES]
        for each in inputs:
            each.set_data_from_numpy(tensors[each.name()])
        answer = client.infer(MODEL, inputs, request_id="seven")
        for name in OUTPUT_NAMES:
            np.testing.assert_array_equal(answer.as_numpy(name), expected[name])
        client.close()


def test_numbers_in_json(server: Endpoints, local: OnnxRunner) -> None:
    tensors = layouts()
    wanted = [{"name": "object_map"}, {"name": "image", "parameters": {"binary_data": False}}]
    status, body = asked(server.http, INFER, json.dumps(in_json(tensors, wanted)).encode())
    assert status == 200, body
    document = json.loads(body)
    assert (document["id"], document["model_name"], document["model_version"]) == ("7", MODEL, "1")
    expected = local.run(tensors, ("object_map", "image"))
    for output in document["outputs"]:
        found = np.array(output["data"], np.uint8).reshape(output["shape"])
        np.testing.assert_array_equal(found, expected[output["name"]])


def test_metrics_are_tritons_and_its_own(server: Endpoints) -> None:
    asked(server.http, "/nowhere")
    status, body = asked(server.metrics, "/metrics")
    lines = body.decode().splitlines()
    assert status == 200
    assert any(line.startswith("nv_inference_request_success{") for line in lines)
    assert "lostgan_serve_ready 1" in lines
    assert any(line.startswith('lostgan_serve_refused_total{reason="HTTP 404"} ') for line in lines)
    assert asked(server.http, "/metrics")[0] == asked(server.metrics, "/v2")[0] == 404


# What brings Triton down, or takes its memory


@contextmanager
def unharmed(server: Endpoints) -> Iterator[None]:
    """The same tritonserver is ready after the block, with the same memory."""
    before = memory_mib(server)
    yield
    assert Path(f"/proc/{server.pid}").exists()
    assert asked(server.http, "/v2/health/ready")[0] == 200
    assert memory_mib(server) < before + 40


@pytest.mark.parametrize("side", [2**31, 2**40, 2**62, 2**70, -1, 1.5, True, "1", None])
@pytest.mark.parametrize("form", ["json", "binary"])
def test_shapes_that_are_none(server: Endpoints, side: object, form: str) -> None:
    document = in_json(layouts(), [])
    document["inputs"][0]["shape"] = [1, side]
    body = json.dumps(document).encode()
    headers = {}
    if form == "binary":
        for item in document["inputs"]:
            del item["data"]
            item["parameters"] = {"binary_data_size": 8}
        head = json.dumps(document).encode()
        body, headers = head + bytes(8 * len(document["inputs"])), {"Inference_Header_Content_Length": str(len(head))}
    with unharmed(server):
        status, answer = asked(server.http, INFER, body, **headers)
        assert status == 400
        assert "inputs[0]" in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"[" * 500_000, {}, (400, "the body is no JSON")),
        (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, (400, "the body is no JSON")),
        (b'{"inputs": [{"name": "labels", "datatype": "INT64", "shape": [1], "data": ' + b"[" * 90 + b"]" * 90 + b"}]}",
         {}, (400, "inputs[0].data")),
        (b"{}", {}, (400, "inputs: must be a list")),
        (b"", {}, (400, "the body is no JSON")),
        (b"\xff\xfe", {}, (400, "the body is no JSON")),
        (b"{}", {"Inference_Header_Content_Length": "99"}, (400, "Inference-Header-Content-Length")),
        (b"{}", {"Inference_Header_Content_Length": "-1"}, (400, "Inference-Header-Content-Length")),
        (b"{}" + b"x" * 9, {"Inference_Header_Content_Length": "2"}, (400, "inputs")),
        (b'{"inputs": [], "parameters": {"sequence_id": 3}}', {}, (400, "parameters.sequence_id")),
        (b'{"inputs": [], "outputs": [{"name": "image", "parameters": {"shared_memory_region": "x"}}]}', {},
         (400, "shared_memory_region")),
        (gzip.compress(bytes(1_000_000)), {"Content_Encoding": "gzip"}, (415, "compressed")),
        (b"{}", {"Origin": "https://evil.example", "Content_Type": "text/plain"}, (403, "web pages")),
    ],
)  # fmt: skip
def test_bodies_that_are_none(
    server: Endpoints, body: bytes, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    with unharmed(server):
        status, answer = asked(server.http, INFER, body, **headers)
        assert status == expected[0]
        assert expected[1] in json.loads(answer)["error"]
        assert len(answer) < 400


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Endpoints) -> None:
    with closing(http.client.HTTPConnection(server.http, timeout=10)) as connection:
        connection.putrequest("POST", INFER)
        connection.putheader("Content-Length", "5000000")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert "larger than" in json.loads(answer.read())["error"]


def test_a_body_in_a_million_chunks(server: Endpoints) -> None:
    host, _, port = server.http.partition(":")
    with unharmed(server), socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        answer = b""
        with suppress(OSError):  # it is refused before its end, and may be hung up on
            for _ in range(1000):
                connection.sendall(b"1\r\n[\r\n" * 1000)
            answer = connection.recv(1 << 16)
        assert answer == b"" or b" 413 " in answer


def test_messages_of_grpc_have_limits(server: Endpoints) -> None:
    with unharmed(server), grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="larger than max"):
            infer(bytes(2**22), timeout=10)
        with pytest.raises(grpc.RpcError, match=r"compress|larger than max|UNIMPLEMENTED"):
            infer(bytes(2**22), timeout=10, compression=grpc.Compression.Gzip)
        for call in ("RepositoryModelUnload", "SystemSharedMemoryRegister", "LogSettings", "ModelStreamInfer"):
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                channel.unary_unary(f"/inference.GRPCInferenceService/{call}")(b"", timeout=10)


def test_idle_connections_keep_nobody_out(gateway: Callable[..., Settings], local: OnnxRunner) -> None:
    settings = gateway(connections=16)
    held = [socket.create_connection((LOOPBACK, settings.http_port)) for _ in range(60)]
    try:
        assert asked(f"{LOOPBACK}:{settings.http_port}", "/v2/health/ready")[0] == 200
        with closing(TritonRunner(f"http://{LOOPBACK}:{settings.http_port}", MODEL)) as runner:
            found, expected = runner.run(layouts(), ["image"]), local.run(layouts(), ["image"])
        np.testing.assert_array_equal(found["image"], expected["image"])
    finally:
        for connection in held:
            connection.close()


def test_idle_connections_of_grpc_keep_nobody_out(server: Endpoints, local: OnnxRunner) -> None:
    host, _, port = server.grpc.rpartition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(1200)]
    try:
        with closing(TritonRunner(server.grpc, MODEL)) as runner:
            assert_answers(runner, local)
    finally:
        for connection in held:
            connection.close()


def test_inferences_beyond_the_queue_are_refused(gateway: Callable[..., Settings]) -> None:
    settings = gateway(waiting=0)
    for url in (f"grpc://{LOOPBACK}:{settings.grpc_port}", f"http://{LOOPBACK}:{settings.http_port}"):
        with (
            closing(TritonRunner(url, MODEL, patience_s=0)) as runner,
            pytest.raises(ServerError, match=r"queue is full|maximum queue"),
        ):
            runner.run(layouts(), ["image"])


def test_many_calls_of_one_connection_are_answered_or_told_of_the_queue(gateway: Callable[..., Settings]) -> None:
    """gRPC would reset the streams of those beyond its own limit."""
    settings = gateway(waiting=16)
    message = infer_request(pb, MODEL, layouts(), ["image"])
    with grpc.insecure_channel(f"{LOOPBACK}:{settings.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def outcome(_: int) -> str:
            try:
                stub.ModelInfer(message, timeout=60)
            except grpc.RpcError as error:
                return str(error.details())
            return "answered"

        with ThreadPoolExecutor(300) as pool:
            outcomes = Counter(outcome.partition(":")[0] for outcome in pool.map(outcome, range(900)))
    assert outcomes.keys() == {"answered", "Exceeds maximum queue size"}


# Who can reach it


def test_what_exposure_needs(cli: Cli, tiny_repository: Path, tmp_path: Path) -> None:
    serve = ("serve", "--repository", tiny_repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    for options, words in (
        (("--public",), ["--public", "--tls-cert", "--without-tls"]),
        (("--public", "--without-tls", "--host", "::1"), ["--public", "--host"]),
        (("--without-tls",), ["--without-tls", "--public"]),
        (("--tls-cert", tmp_path / "none.pem"), [tmp_path / "none.pem"]),
        (("--tls-key", tmp_path / "none.pem"), [tmp_path / "none.pem"]),
    ):
        fails_in_one_line(cli(*serve, *options), words)


def test_requests_that_a_model_refuses_name_the_tensor(server: Endpoints) -> None:
    tensors = layouts()
    tensors["boxes"][0, 0, 0] = np.nan
    for url in (server.grpc, f"http://{server.http}"):
        with closing(TritonRunner(url, MODEL)) as runner, pytest.raises(RequestError, match="boxes"):
            runner.run(tensors, ["image"])


def test_a_look_at_a_server_before_others_are_let_in(
    cli: Cli, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("serve", "--repository", tiny_repository, "--check", check=True)
    levels = [line.split()[0] for line in done.stdout.splitlines()]
    assert levels == ["warning", *["ok"] * 5]
    assert "tritonserver 2.51.0 lacks the fixes of" in done.stdout
    assert cli("serve", "--repository", tiny_repository, "--check", "--direct").returncode == 1

    monkeypatch.setattr(Launch, "_public", lambda self: self.addresses.options())
    findings = [finding for finding in check(tiny_repository, Exposure(direct=True)) if finding.level == "fault"]
    assert "HTTP: /v2/repository/index" in findings[1].text
    assert "gRPC: repository" in findings[2].text
