"""Requests to a real Triton server: its answers, its errors, and the commands that ask it."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient import grpc as triton_grpc
from tritonclient.grpc import model_config_pb2 as pb

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.contract import OUTPUT_NAMES, empty_batch
from lostgan_serve.errors import ModelError, ServerError, ServerUnavailableError
from lostgan_serve.model_folder import ModelFolder
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.triton.configuration import write_configuration
from lostgan_serve.triton.server import Endpoints, running_server
from relays import Relay, listening

MODEL = "lostgan_128"
BOUNDED = "bounded_queue"
FOREIGN = "foreign"
Arrays = dict[str, np.ndarray[Any, Any]]


def publish(repository: Path, name: str, model: Path, change: Callable[[pb.ModelConfig], object] | None = None) -> None:
    """Put a model into a repository, its embedded configuration changed as asked."""
    runner = OnnxRunner(model)
    folder = ModelFolder(repository / name)
    with folder.new_version() as version:
        shutil.copy(model, version.onnx)
    write_configuration(folder, runner.manifest)
    runner.close()
    if change:
        path = repository / name / "configs" / "embedded.pbtxt"
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        change(config)
        path.write_text(text_format.MessageToString(config))


def bound_queue(config: pb.ModelConfig) -> None:
    config.dynamic_batching.default_queue_policy.max_queue_size = 1


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model; the same with a queue of one; the same without parameters; one that is not exported."""
    folder = tmp_path_factory.mktemp("triton_repo")
    publish(folder, MODEL, tiny_model)
    publish(folder, BOUNDED, tiny_model, bound_queue)
    publish(folder, FOREIGN, tiny_model, lambda config: config.parameters.clear())
    write_configuration(ModelFolder(folder / "lostgan_512"), OnnxRunner(tiny_model).manifest)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Endpoints]:
    with running_server(repository) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> OnnxRunner:
    return OnnxRunner(tiny_model)


@pytest.fixture
def remote(server: Endpoints) -> TritonRunner:
    return TritonRunner(server.grpc, MODEL)


def layouts(batch: int, slots: int, seed: int = 0) -> Arrays:
    """Random layouts; the last slot is empty."""
    random = np.random.default_rng(seed)
    tensors = empty_batch(batch, slots)
    full = slots - 1
    tensors["labels"][:, :full] = random.integers(1, 20, (batch, full))
    tensors["boxes"][:, :full, :2] = random.uniform(0, 0.5, (batch, full, 2))
    tensors["boxes"][:, :full, 2:] = random.uniform(0.1, 0.5, (batch, full, 2))
    tensors["z_obj"][:, :full] = random.standard_normal(tensors["z_obj"][:, :full].shape)
    tensors["z_img"][:] = random.standard_normal(tensors["z_img"].shape)
    return tensors


def batch_counts(server: Endpoints, model: str = MODEL) -> dict[int, int]:
    """How many batches of each size a model has drawn."""
    statistics = triton_grpc.InferenceServerClient(server.grpc).get_inference_statistics(model)
    return {batch.batch_size: batch.compute_infer.count for batch in statistics.model_stats[0].batch_stats}


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of calls made at the same time, or their errors."""
    barrier = threading.Barrier(len(calls))

    def attempt(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(attempt, calls))


def assert_close(found: Arrays, expected: Arrays) -> None:
    """Equal but for rounding: other layouts in the batch may change the order of additions."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        if name == "object_map":
            assert (array != expected[name]).mean() < 0.01
        else:
            assert np.abs(array.astype(int) - expected[name]).max() <= 1


# Answers


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_answers_are_those_of_the_model_itself(server: Endpoints, local: OnnxRunner, protocol: str) -> None:
    runner = TritonRunner(f"{protocol}://{getattr(server, protocol)}", MODEL)
    assert runner.manifest.serving_parameters() == local.manifest.serving_parameters()
    tensors = layouts(3, local.manifest.slots)
    found, expected = runner.run(tensors, OUTPUT_NAMES), local.run(tensors, OUTPUT_NAMES)
    for name in OUTPUT_NAMES:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])
    runner.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_only_the_wanted_outputs_are_sent(server: Endpoints, local: OnnxRunner, protocol: Any) -> None:
    relay = Relay(getattr(server, protocol))
    with listening(relay) as port:
        runner = TritonRunner(f"{protocol}://127.0.0.1:{port}", MODEL)
        before = relay.answered
        found = runner.run(layouts(1, local.manifest.slots), ["object_map"])
    assert list(found) == ["object_map"]
    assert (
        found["object_map"].nbytes < relay.answered - before < 2 * found["object_map"].nbytes
    )  # an image is thrice that


def test_requests_for_different_outputs_share_a_batch(remote: TritonRunner, local: OnnxRunner) -> None:
    slots = local.manifest.slots
    wishes: list[tuple[str, ...]] = [("image",), ("masks",), ("object_map", "image"), OUTPUT_NAMES]
    results = together([partial(remote.run, layouts(1, slots, i), wish) for i, wish in enumerate(wishes)])
    for i, wish in enumerate(wishes):
        assert_close(results[i], local.run(layouts(1, slots, i), wish))


def test_concurrent_requests_are_drawn_in_batches(server: Endpoints, remote: TritonRunner, local: OnnxRunner) -> None:
    slots = local.manifest.slots
    before = batch_counts(server)
    results = together([partial(remote.run, layouts(1, slots, i), ["image"]) for i in range(16)])
    for i, found in enumerate(results):
        assert_close(found, local.run(layouts(1, slots, i), ["image"]))
    new = {size: count - before.get(size, 0) for size, count in batch_counts(server).items()}
    assert max(size for size, count in new.items() if count) > 1
    assert sum(size * count for size, count in new.items()) == 16


def broken_layouts(slots: int) -> dict[str, Arrays]:
    """Layouts that cannot be drawn, under the name of the input that is wrong."""
    unknown_label, negative_label, flat_box, nan_code, infinite_code = (layouts(1, slots) for _ in range(5))
    unknown_label["labels"][0, 0] = 1000
    negative_label["labels"][0, 0] = -1
    flat_box["boxes"][0, 0, 2] = 0
    nan_code["z_obj"][0, 0, 0] = np.nan
    infinite_code["z_img"][0, 0] = np.inf
    short = {name: array[:, :2] if name != "z_img" else array for name, array in layouts(1, slots).items()}
    return {
        "labels: ids": unknown_label,
        "labels": negative_label,
        "boxes": flat_box,
        "z_obj": nan_code,
        "z_img": infinite_code,
        "unexpected shape": short,
        "batch-size": layouts(9, slots),
    }


def test_a_bad_request_does_not_disturb_its_batch_mates(remote: TritonRunner, local: OnnxRunner) -> None:
    slots = local.manifest.slots
    broken = broken_layouts(slots)
    tensors = [layouts(1, slots, i) for i in range(5)] + list(broken.values())
    keep_busy = layouts(8, slots)  # the others gather in the queue meanwhile
    _, *results = together([partial(remote.run, t, ["image"]) for t in [keep_busy, *tensors]])
    for i in range(5):
        assert_close(results[i], local.run(tensors[i], ["image"]))
    for fault, error in zip(broken, results[5:], strict=True):
        assert isinstance(error, ModelError), error
        assert fault in str(error)
        assert "\n" not in str(error)


# Errors


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server(protocol: Any) -> None:
    with pytest.raises(ServerError, match=r"127.0.0.1:9: no server is ready.*lostgan-serve serve"):
        TritonRunner("127.0.0.1:9", MODEL, protocol)


@pytest.mark.parametrize(("protocol", "of"), [("grpc", "http"), ("http", "grpc"), ("http", "metrics")])
def test_port_of_another_protocol(server: Endpoints, protocol: Any, of: str) -> None:
    with pytest.raises(ServerError, match=rf"is not Triton's {protocol}, by default at port 800"):
        TritonRunner(getattr(server, of), MODEL, protocol, timeout_s=10)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_server_that_does_not_answer(protocol: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ServerError, match=r"no answer within 0\.5 s"),
    ):
        TritonRunner(f"127.0.0.1:{silent.getsockname()[1]}", MODEL, protocol, timeout_s=0.5)


def test_close_ends_what_is_in_flight(server: Endpoints) -> None:
    relay = Relay(server.grpc)
    with listening(relay) as port, ThreadPoolExecutor(1) as pool:
        runner = TritonRunner(f"127.0.0.1:{port}", MODEL)
        relay.silent.set()
        call = pool.submit(runner.run, layouts(1, runner.manifest.slots), ["image"])
        assert relay.held.wait(10)
        began = time.monotonic()
        runner.close()
        with pytest.raises(ServerError, match="closed"):
            call.result(timeout=30)
        assert time.monotonic() - began < 5


def test_what_a_server_says_is_made_fit_for_a_terminal() -> None:
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%s"
    body = json.dumps({"error": "\x1b[31mred\x07 " + "x" * 5000}).encode()

    def answer_once(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer % (len(body), body))

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(answer_once, listening)
        with pytest.raises(ServerError) as caught:
            TritonRunner(f"http://127.0.0.1:{listening.getsockname()[1]}", MODEL)
    assert "[31mred xxx" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_unknown_model(server: Endpoints, protocol: Any) -> None:
    with pytest.raises(ModelError, match=f"no model 'lostgan_512' is ready there; it has: .*{MODEL}"):
        TritonRunner(getattr(server, protocol), "lostgan_512", protocol)


def test_several_models(server: Endpoints) -> None:
    with pytest.raises(ModelError, match=f"name one with --model: {BOUNDED}, {FOREIGN}, {MODEL}"):
        TritonRunner(server.grpc)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_model_of_someone_else(server: Endpoints, protocol: Any) -> None:
    with pytest.raises(ModelError, match=f"'{FOREIGN}' .*not a lostgan-serve model"):
        TritonRunner(getattr(server, protocol), FOREIGN, protocol)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_full_queue(server: Endpoints, protocol: Any) -> None:
    runner = TritonRunner(getattr(server, protocol), BOUNDED, protocol)
    calls = [partial(runner.run, layouts(8, runner.manifest.slots), ["image"])] * 6
    assert all(isinstance(result, dict) for result in together(calls))  # refused and sent again
    runner = TritonRunner(getattr(server, protocol), BOUNDED, protocol, patience_s=0)
    calls = [partial(runner.run, layouts(8, runner.manifest.slots), ["image"])] * 6
    errors = [result for result in together(calls) if not isinstance(result, dict)]
    assert errors
    assert all(isinstance(error, ServerUnavailableError) and "queue is full" in str(error) for error in errors)


# The commands


def test_client_paints_what_generate_paints(cli: Cli, server: Endpoints, tiny_model: Path, tmp_path: Path) -> None:
    """Every file byte for byte, over gRPC and HTTP: no batch differs from the in-process one."""
    cli("generate", *EXAMPLES, "--masks", "--model", tiny_model, "--out", tmp_path / "here", check=True)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    for url in (server.grpc, f"http://{server.http}"):
        out = tmp_path / url.partition(":")[0]
        done = cli("client", *EXAMPLES, "--masks", "--url", url, "--model", MODEL, "--out", out, check=True)
        assert "untrained" in done.stderr
        assert {path.name: path.read_bytes() for path in out.iterdir()} == expected


def test_client_says_what_is_wrong_in_one_line(cli: Cli, server: Endpoints, tmp_path: Path) -> None:
    for arguments, words in (
        (("--url", server.grpc), ["--model", MODEL]),
        (("--url", server.grpc, "--model", "lostgan_1024"), ["no model 'lostgan_1024'", MODEL]),
        (("--url", server.grpc, "--model", FOREIGN), ["not a lostgan-serve model"]),
        (("--url", server.http, "--model", MODEL), [server.http, "not Triton's grpc"]),
        (("--url", f"127.0.0.1:{_closed_port()}"), ["no server is ready", "lostgan-serve serve"]),
    ):
        fails_in_one_line(cli("client", EXAMPLES[0], *arguments, "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_bench_of_a_server(cli: Cli, server: Endpoints, repository: Path, tmp_path: Path) -> None:
    options = ("--res", 128, "--url", server.grpc, "--repository", repository, "--rounds", 1)
    done = cli("bench", *options, "--json", tmp_path / "served.json", check=True)
    rows = json.loads((tmp_path / "served.json").read_text())["served"]
    assert [row["outputs"] for row in rows] == [["image"], list(OUTPUT_NAMES)]
    assert all(row["images_per_s"] > 0 and row["mean_batch"] > 1 for row in rows)
    assert all(row["latency_p50_ms"] <= row["latency_p95_ms"] <= row["latency_p99_ms"] for row in rows)
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()] == [
        "load",
        ":--------",
        *2 * ["8 clients"],
    ]


def test_bench_of_a_server_with_layouts_at_random_moments(
    cli: Cli, server: Endpoints, repository: Path, tmp_path: Path
) -> None:
    options = ("--url", server.grpc, "--repository", repository, "--rate", 40, "--rounds", 1)
    cli("bench", "--res", 128, *options, "--json", tmp_path / "served.json", check=True)
    for row in json.loads((tmp_path / "served.json").read_text())["served"]:
        assert row["load"] == "40/s"
        assert row["share"] is None
        assert row["images_per_s"] < 60  # no faster than they came
        assert sum(int(size) * count for size, count in row["batch_sizes"].items()) == 64


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
