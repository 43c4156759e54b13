"""The client on its way to a server: addresses, restarts, and answers that no server should give."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conftest import EXAMPLES
from lostgan_serve.commands.inference import client
from lostgan_serve.errors import ModelError, RequestError, ServerError, ServerUnavailableError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import ServerAddress, TritonRunner
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.server import Endpoints, running_server
from relays import Answers, Relay, answer, listening
from servers import another_model, assert_answers, layouts

MODEL = "lostgan_128"
PROTOCOLS = ("grpc", "http")

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> OnnxRunner:
    return OnnxRunner(tiny_model)


class Told(Progress):
    """Remembers the stages that began."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.stages.append(name)
        yield


# Addresses


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("localhost", "grpc://localhost:8001"),
        ("triton.example:9000", "grpc://triton.example:9000"),
        ("triton.example:9000/", "grpc://triton.example:9000"),
        ("grpc://host", "grpc://host:8001"),
        ("grpcs://host", "grpcs://host:8001"),
        ("http://host/", "http://host:8000"),
        ("https://host", "https://host:443"),
        ("HTTPS://host:8443", "https://host:8443"),
        ("::1", "grpc://[::1]:8001"),
        ("[::1]", "grpc://[::1]:8001"),
        ("[::1]:9", "grpc://[::1]:9"),
        ("http://[fe80::1%eth0]:80/", "http://[fe80::1%eth0]:80"),
        ("a_b-c.d:1", "grpc://a_b-c.d:1"),
        ("127.1:1", "grpc://127.0.0.1:1"),
        ("http://bücher.example", "http://xn--bcher-kva.example:8000"),
    ],
)
def test_addresses(url: str, read: str) -> None:
    address = ServerAddress.parse(url)
    assert str(address) == read
    assert ServerAddress.parse(str(address)) == address


def test_protocol_of_an_address_without_one() -> None:
    assert str(ServerAddress.parse("localhost", "http")) == "http://localhost:8000"
    assert str(ServerAddress.parse("grpc://localhost", "http")) == "grpc://localhost:8001"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:99999", "port '99999'"),
        ("localhost:0", "port '0'"),
        ("localhost:-1", "port '-1'"),
        ("localhost:", "port ''"),
        ("localhost:http", "port 'http'"),
        ("localhost:8001/v2", "nothing may follow the port"),
        ("http://localhost?x=1", "nothing may follow the port"),
        ("ftp://localhost", "there is no protocol 'ftp'"),
        ("", "names no host"),
        ("http://", "names no host"),
        (":8001", "names no host"),
        ("[]:8001", "is no host"),
        ("[localhost]:8001", "is no host"),
        ("a:b:8001", "is no host"),
        ("8001", "is no host"),
        ("two words:8001", "is no host"),
        ("a..b", "is no host"),
        ("x" * 64, "is no host"),
        ("host\x1b[31m", "is no host"),
        ("host\x1b", "is no host"),
        ("℀.example", "is no host"),  # in ASCII it has a slash
        ("\udce9", "is no host"),
        ("grpc://ann:secret@host", "a user's name"),
    ],
)
def test_wrong_addresses(url: str, words: str) -> None:
    with pytest.raises(ServerError) as caught:
        TritonRunner(url)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_this_machine(server: Endpoints, local: OnnxRunner, protocol: str, host: str) -> None:
    port = getattr(server, protocol).partition(":")[2]
    assert_answers(TritonRunner(f"{protocol}://{host}:{port}/", MODEL), local)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["\udce9", "two\nlines"])
def test_names_that_no_model_has(protocol: str, model: str) -> None:
    with pytest.raises(ModelError, match="no model has such a name"):
        TritonRunner(f"{protocol}://localhost:1", model)


@pytest.mark.parametrize("times", [{"patience_s": float("nan")}, {"patience_s": -1.0}, {"timeout_s": float("nan")}])
def test_times_that_no_wait_would_end_by(times: dict[str, float]) -> None:
    with pytest.raises(ServerError, match="a time is a number of seconds"):
        TritonRunner("localhost:1", MODEL, **times)  # type: ignore[arg-type]


@pytest.mark.parametrize("patience", ["nan", "NaN", "-1", "1e9"])
def test_client_takes_no_such_patience(patience: str) -> None:
    result = CliRunner().invoke(client, [str(EXAMPLES[0]), "--patience", patience])
    assert result.exit_code == 2
    assert "is not in the range" in result.output


# Servers that go away


def test_restart(tiny_repository: Path, local: OnnxRunner, tmp_path: Path) -> None:
    """A server that is stopped and started in the middle of requests costs none of them; another model is told of."""
    expected = local.run(layouts(), ["image"])["image"]
    told = {protocol: Told() for protocol in PROTOCOLS}
    begin, finish = threading.Barrier(len(PROTOCOLS) * 2 + 1), threading.Event()

    def ask(runner: TritonRunner) -> int:
        begin.wait(30)
        asked = 0
        while not finish.is_set():
            np.testing.assert_array_equal(runner.run(layouts(), ["image"])["image"], expected)
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        with running_server(tiny_repository) as first:
            http_port, grpc_port = (int(netloc.rpartition(":")[2]) for netloc in (first.http, first.grpc))
            again = partial(running_server, exposure=Exposure(ports=(http_port, grpc_port, 0)))
            runners = {
                protocol: TritonRunner(f"{protocol}://{getattr(first, protocol)}", progress=told[protocol])
                for protocol in PROTOCOLS
            }
            calls = [pool.submit(ask, runner) for runner in runners.values() for _ in range(2)]
            begin.wait(30)
            time.sleep(0.5)
        with again(tiny_repository):
            finish.set()
            assert all(call.result(timeout=60) > 1 for call in calls)
    for protocol in PROTOCOLS:
        assert told[protocol].stages == [f"waiting for {protocol}://{getattr(first, protocol)} to come back"]
    with again(another_model(tiny_repository, tmp_path / "other")):
        for runner in runners.values():
            with pytest.raises(ModelError, match=f"another model is served as '{MODEL}' now"):
                runner.run(layouts(), ["image"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_stays_away(server: Endpoints, protocol: str) -> None:
    relay, told = Relay(getattr(server, protocol)), Told()
    with listening(relay) as port:
        url = f"{protocol}://127.0.0.1:{port}"
        runner = TritonRunner(url, MODEL, patience_s=1, progress=told)
        relay.cut = 1
    with pytest.raises(ServerUnavailableError, match="no server is ready"):
        runner.run(layouts(), ["image"])
    assert told.stages == [f"waiting for {url} to come back"]
    with pytest.raises(ServerUnavailableError, match="no server is ready"):
        TritonRunner(url, MODEL, patience_s=0.5, progress=told)  # asked to wait for the first answer, too
    assert len(told.stages) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_that_are_cut_off_are_asked_for_again(server: Endpoints, local: OnnxRunner, protocol: str) -> None:
    relay, told = Relay(getattr(server, protocol)), Told()
    with listening(relay) as port:
        runner = TritonRunner(f"{protocol}://127.0.0.1:{port}", MODEL, progress=told)
        relay.cut = 2
        assert_answers(runner, local)
    assert relay.cut == 0
    assert not told.stages  # the server was there


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_close_ends_a_wait(server: Endpoints, protocol: str) -> None:
    relay, waiting = Relay(getattr(server, protocol)), threading.Event()

    class Waiting(Progress):
        @contextmanager
        def stage(self, name: str) -> Iterator[None]:
            assert name
            waiting.set()
            yield

    with listening(relay) as port:
        runner = TritonRunner(f"{protocol}://127.0.0.1:{port}", MODEL, progress=Waiting())
        relay.cut = 1
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(runner.run, layouts(), ["image"])
        assert waiting.wait(30)
        runner.close()
        with pytest.raises(ServerError, match="closed"):
            call.result(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_addresses_where_nothing_answers(protocol: str) -> None:
    """A socket whose queue is full answers no attempt to connect, like an address behind a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = silent.getsockname()
        with ThreadPoolExecutor(4) as pool:
            for held in [socket.socket() for _ in range(4)]:
                held.settimeout(0.5)
                pool.submit(held.connect_ex, address)
        with pytest.raises(ServerUnavailableError, match=f"{address[1]}: no "):
            TritonRunner(f"{protocol}://127.0.0.1:{address[1]}", MODEL, timeout_s=1)


# Answers that no server should give


@pytest.fixture
def configuration(local: OnnxRunner) -> bytes:
    """The answer about a model's configuration, over HTTP."""
    parameters = {key: {"string_value": value} for key, value in local.manifest.serving_parameters().items()}
    return answer(json.dumps({"parameters": parameters}).encode())


def object_map(shape: Sequence[int] = (1, 128, 128), datatype: str = "UINT8", name: str = "object_map") -> bytes:
    """The answer to a request over HTTP."""
    size = {"binary_data_size": int(np.prod(shape))}
    output = {"name": name, "datatype": datatype, "shape": list(shape), "parameters": size}
    head = json.dumps({"outputs": [output]}).encode()
    return answer(head + bytes(size["binary_data_size"]), f"Inference-Header-Content-Length: {len(head)}")


ABSURD = {
    "another shape": (object_map((1, 64, 64)), r"object_map is UINT8 \[1, 64, 64\]"),
    "another batch": (object_map((2, 128, 128)), "object_map is UINT8 .* in place of|bytes"),
    "another type": (object_map(datatype="INT8"), "object_map is INT8"),
    "a negative shape": (object_map((-1, 128, -128)), "object_map is"),
    "another output": (object_map(name="image"), "object_map is missing"),
    "compressed": (answer(b"x", "Content-Encoding: gzip"), "compressed"),
    "too long": (answer(b"x" * 200_000), "200000 bytes"),
    "longer still": (answer(b"x", length=10**15), f"{10**15} bytes"),
    "endless": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000, "more than"),
    "not JSON": (answer(b"<html>"), "not Triton's"),
    "a list": (answer(b"[]"), "not Triton's"),
    "deep": (answer(b"[" * 50_000), "not Triton's"),
    "no size": (answer(b'{"outputs": [{"name": "object_map", "datatype": "UINT8", "shape": [1]}]}'), "not Triton's"),
    "an error": (answer(b'{"error": "it burns\\n"}', status="500 Oh"), "it burns"),
}


@pytest.mark.parametrize("fault", ABSURD)
def test_absurd_answers(configuration: bytes, fault: str) -> None:
    absurd, words = ABSURD[fault]
    answers = Answers(configuration, absurd)
    with listening(answers) as port:
        runner = TritonRunner(f"http://127.0.0.1:{port}", MODEL)
        with pytest.raises(ServerError, match=words) as caught:
            runner.run(layouts(), ["object_map"])
    assert str(caught.value).isprintable()
    assert answers.asked == 1  # such an answer is not asked for again


PASSING = {
    "starting": answer(b'{"error": "starting"}', status="503 Service Unavailable"),
    "behind a proxy": answer(b"<html>", status="502 Bad Gateway"),
    "busy": answer(b'{"error": "Exceeds maximum queue size"}', status="503 Service Unavailable"),
    "stopping": answer(b'{"error": "Request for unknown model: \'x\' has no available versions"}', status="400 Oh"),
    "a worker's end": answer(b'{"error": "Stub process is not healthy."}', status="500 Oh"),
    "cut off": answer(b"xyz", length=1000),
    "ended": b"",
}


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults(configuration: bytes, fault: str) -> None:
    with listening(Answers(configuration, PASSING[fault], object_map())) as port:
        runner = TritonRunner(f"http://127.0.0.1:{port}", MODEL)
        assert not runner.run(layouts(), ["object_map"])["object_map"].any()


def test_a_bad_request_is_not_sent_again(configuration: bytes) -> None:
    answers = Answers(configuration, answer(b'{"error": "labels: no"}', status="400 Bad Request"))
    with listening(answers) as port:
        runner = TritonRunner(f"http://127.0.0.1:{port}", MODEL)
        with pytest.raises(RequestError, match="labels: no"):
            runner.run(layouts(), ["object_map"])
    assert answers.asked == 1


DRIPPING = {
    "its head": b"",
    "a part of its own": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "the connection's last": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n",
    "the connection's last, of no known length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "of HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("head", DRIPPING.values(), ids=DRIPPING)
def test_an_answer_in_drops(configuration: bytes, head: bytes) -> None:
    """Each part comes in time, but the answer does not."""

    def drip(client: socket.socket) -> None:
        if client.recv(65536).startswith(b"GET"):
            client.sendall(configuration)
            return
        client.sendall(head)
        for _ in range(100):
            client.sendall(b"H")
            time.sleep(0.1)

    with listening(drip) as port:
        runner = TritonRunner(f"http://127.0.0.1:{port}", MODEL, timeout_s=1)
        with pytest.raises(ServerUnavailableError, match="no answer within 1 s"):
            runner.run(layouts(), ["object_map"])


@pytest.mark.parametrize(
    ("shape", "size", "name"), [([1, 64, 64], 4096, "object_map"), ([1, 128, 128], 5, "object_map"), ([1], 1, "image")]
)
def test_absurd_answers_over_grpc(local: OnnxRunner, shape: list[int], size: int, name: str) -> None:
    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelConfig(self, *_: Any) -> Any:  # noqa: N802
            config = pb.ModelConfig()
            for key, value in local.manifest.serving_parameters().items():
                config.parameters[key].string_value = value
            return service_pb2.ModelConfigResponse(config=config)

        def ModelInfer(self, *_: Any) -> Any:  # noqa: N802
            output = {"name": name, "datatype": "UINT8", "shape": shape}
            return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[bytes(size)])

    absurd = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), absurd)
    port = absurd.add_insecure_port("127.0.0.1:0")
    absurd.start()
    with pytest.raises(ServerError, match="its output object_map is "):
        TritonRunner(f"127.0.0.1:{port}", MODEL).run(layouts(), ["object_map"])
    absurd.stop(0).wait()
