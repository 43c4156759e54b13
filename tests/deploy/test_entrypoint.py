"""The container's entry point, with tools that only say what they were asked for, and with a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import a_manifest
from deployment import DEPLOY, healthcheck
from lostgan_serve.contract import input_specs
from lostgan_serve.manifest import Manifest
from lostgan_serve.model_folder import ModelFolder
from lostgan_serve.triton.configuration import write_configuration
from lostgan_serve.triton.installation import find_tritonserver
from lostgan_serve.triton.process import ADMIN_APIS, ADMIN_HEADER
from servers import MODEL, PYTHON

FAKE_TOOL = f"""\
{PYTHON}
import json, os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
name = os.path.basename(__file__)
with open(folder / f"{{name}}.calls", "a") as calls:
    print(json.dumps({{"arguments": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}}), file=calls)
"""
TRTEXEC = """\
if "--help" in sys.argv:
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --help")
else:
    plan = next(a.partition("=")[2] for a in sys.argv if a.startswith("--saveEngine="))
    pathlib.Path(plan).write_text("a plan")
"""


class Container:
    """A folder with what the image has: a repository, a cache and tools on PATH."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.cache, self.bin = folder / "models", folder / "plans", folder / "bin"
        self.cache.mkdir()
        self.bin.mkdir()
        self.tool("tritonserver", "")

    def publish(self, weights: bytes = b"onnx", name: str = MODEL, max_batch: int = 4) -> Manifest:
        manifest = a_manifest("scenes", max_batch, "v2-128")
        model = ModelFolder(self.repository / name)
        with model.new_version(replace=True) as version:
            version.onnx.write_bytes(weights)
            version.write_manifest(manifest)
        write_configuration(model, manifest)
        return manifest

    def tool(self, name: str, code: str) -> None:
        (self.bin / name).write_text(FAKE_TOOL + code)
        (self.bin / name).chmod(0o755)

    def gpus(self, *lines: str) -> None:
        self.tool("nvidia-smi", "".join(f"print({line!r})\n" for line in lines))

    def calls(self, name: str) -> list[dict[str, Any]]:
        path = self.bin / f"{name}.calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def builds(self) -> list[list[str]]:
        return [call["arguments"] for call in self.calls("trtexec") if call["arguments"] != ["--help"]]

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(DEPLOY / "entrypoint.py"), str(self.repository), str(self.cache), *options]

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": str(self.bin), "TMPDIR": str(self.bin), **variables}

    def start(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options), env=self.environment(**variables), capture_output=True, text=True, timeout=60
        )

    def served(self) -> Path:
        """The repository that the last tritonserver was started with."""
        return Path(self.calls("tritonserver")[-1]["arguments"][0].removeprefix("--model-repository="))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_a_plan_is_built_once_for_a_gpu_and_a_tensorrt(container: Container) -> None:
    manifest = container.publish()
    container.gpus("NVIDIA H100 80GB HBM3, 9.0", "NVIDIA H100 80GB HBM3, 9.0")
    container.tool("trtexec", TRTEXEC)
    first = container.start()
    assert first.returncode == 0, first.stderr
    assert "building a TensorRT plan for NVIDIA-H100-80GB-HBM3-9.0-tensorrt-101602" in first.stderr
    assert container.start().returncode == 0
    (build,) = container.builds()

    def shapes(batch: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(map(str, (batch, *spec.dims)))}" for spec in input_specs(manifest.slots)
        )

    onnx = container.repository / MODEL / "1" / "model.onnx"
    assert build[0] == f"--onnx={onnx}"
    assert build[2:5] == [f"--{name}Shapes={shapes(size)}" for name, size in (("min", 1), ("opt", 2), ("max", 4))]
    exported, served = container.repository / MODEL, container.served() / MODEL
    assert (served / "1" / "model.plan").read_text() == "a plan"
    assert (served / "config.pbtxt").read_bytes() == (exported / "configs" / "tensorrt.pbtxt").read_bytes()
    for file in ("labels.txt", *(f"warmup/{spec.name}" for spec in input_specs(manifest.slots))):
        assert (served / file).read_bytes() == (exported / file).read_bytes()
    assert not list(container.cache.rglob(".tmp-*"))


@pytest.mark.parametrize("change", ["gpu", "tensorrt", "weights", "configuration"])
def test_a_plan_for_something_else_is_not_used(container: Container, change: str) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC)
    container.start()
    if change == "gpu":
        container.gpus("NVIDIA T4, 7.5")
    elif change == "tensorrt":
        container.tool("trtexec", TRTEXEC.replace("101602", "110100"))
    elif change == "weights":
        container.publish(b"other weights")
    else:
        container.publish(max_batch=16)
    container.start()
    assert len(container.builds()) == 2


def failures(container: Container) -> Iterator[tuple[str, str]]:
    """Break one thing after the other; what the log has to say about it."""
    yield "no GPU", "nvidia-smi"  # there is no such command yet
    container.gpus()
    yield "no GPU in the container", "no GPU"
    container.gpus("NVIDIA L4, 8.9", "NVIDIA T4, 7.5")
    yield "two models", "NVIDIA L4, 8.9, NVIDIA T4, 7.5"
    container.gpus("NVIDIA L4, 8.9")
    yield "no trtexec", "no trtexec"
    container.tool("trtexec", "print('hello')")
    yield "another trtexec", "which TensorRT"
    container.tool("trtexec", TRTEXEC + "    sys.exit(3)\n")
    yield "a build that fails", "exit code 3"
    container.tool("trtexec", TRTEXEC)
    shutil.rmtree(container.cache)
    container.cache.write_text("not a folder")
    yield "no cache", str(container.cache)


def test_without_a_plan_onnx_runtime_serves(container: Container) -> None:
    container.publish()
    for case, words in failures(container):
        done = container.start()
        assert done.returncode == 0, (case, done.stderr)
        assert re.search(rf"no TensorRT plan: .*{re.escape(words)}.*; serving with ONNX Runtime", done.stderr), (
            case,
            done.stderr,
        )
        assert container.served() == container.repository
        assert container.cache.is_file() or not list(container.cache.rglob("*.plan"))


def test_one_model_without_a_plan_does_not_keep_another_from_its_own(container: Container) -> None:
    container.publish()
    container.publish(name="lostgan_512")
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC + "    sys.exit('lostgan_512' in sys.argv[1])\n")
    assert "lostgan_512: no TensorRT plan" in container.start().stderr
    assert (container.served() / MODEL / "1" / "model.plan").is_file()
    assert (container.served() / "lostgan_512").resolve() == container.repository / "lostgan_512"
    arguments = container.calls("tritonserver")[0]["arguments"]
    assert {"--load-model=lostgan_128", "--load-model=lostgan_512"} < set(arguments)


def test_cpu_only(container: Container) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC)
    assert container.start(LOSTGAN_SERVE_DEVICE="cpu").returncode == 0
    assert not container.calls("nvidia-smi")
    assert not container.calls("trtexec")
    assert container.calls("tritonserver")[0]["devices"] == ""


@pytest.mark.parametrize(
    ("published", "device", "words"),
    [(True, "tpu", "LOSTGAN_SERVE_DEVICE: 'tpu'"), (False, "gpu", "no exported model")],
)
def test_what_cannot_be_served_ends_in_one_line(container: Container, published: bool, device: str, words: str) -> None:
    if published:
        container.publish()
    done = container.start(LOSTGAN_SERVE_DEVICE=device)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["2_test", "2", "3 copy"])
def test_folder_that_triton_would_take_for_a_version_ends_in_one_line(container: Container, name: str) -> None:
    container.publish()
    stray = container.repository / MODEL / name
    stray.mkdir()
    done = container.start()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {stray}: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_newest_version_is_served(container: Container) -> None:
    container.publish()
    model = container.repository / MODEL
    for name in ("10", "9"):
        shutil.copytree(model / "1", model / name)
    for name in ("010", ".11", "old"):
        (model / name).mkdir()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC)
    assert container.start().returncode == 0
    assert [path.name for path in (container.served() / MODEL).glob("[0-9]*")] == ["10"]


def test_a_model_that_is_not_the_exported_one_is_not_served(container: Container) -> None:
    container.publish()
    model = container.repository / MODEL / "1" / "model.onnx"
    model.write_bytes(b"onny")
    done = container.start(LOSTGAN_SERVE_DEVICE="cpu")
    assert done.returncode == 1
    assert f"error: {model}: is not the file that export made" in done.stderr
    assert not container.calls("tritonserver")


def test_sigterm_ends_a_build(container: Container) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC + "    time.sleep(60)\n")
    process = subprocess.Popen(container.command(), env=container.environment(), stderr=subprocess.DEVNULL)
    for _ in range(600):
        if list(container.cache.rglob("*.plan")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(container.cache.rglob("*.plan"))
    assert not container.calls("tritonserver")


def test_the_command_line_is_one_that_a_real_server_takes(
    container: Container, tiny_repository: Path, tmp_path: Path
) -> None:
    """The wheel's server, which needs a backend folder and its own configuration besides."""
    wheel = find_tritonserver(tmp_path)
    code = f"os.execve({str(wheel.executable)!r}, [name, *sys.argv[1:]], os.environ | {wheel.environment!r})"
    container.tool("tritonserver", code)
    container.repository = tiny_repository
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    options = [*wheel.options, f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    variables = {"LOSTGAN_SERVE_DEVICE": "cpu", "LOSTGAN_SERVE_ADMIN_KEY": "key"}
    command, environment = container.command(*options), os.environ | container.environment(**variables)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while subprocess.run(healthcheck(tiny_repository, port), stderr=subprocess.DEVNULL).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        index = urllib.request.Request(f"http://127.0.0.1:{port}/v2/repository/index", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(index)
        index.add_header(ADMIN_HEADER, "key")
        assert json.load(urllib.request.urlopen(index))[0]["name"] == MODEL
    finally:
        process.terminate()
        assert process.wait(40) == 0
    assert subprocess.run(healthcheck(tiny_repository, port), stderr=subprocess.DEVNULL).returncode == 1


def test_the_same_apis_are_locked_as_by_serve(container: Container) -> None:
    container.publish()
    container.start("--log-verbose=1", LOSTGAN_SERVE_ADMIN_KEY="key")
    arguments = container.calls("tritonserver")[0]["arguments"]
    lock = f"{ADMIN_APIS}:{ADMIN_HEADER}=key"
    assert f"--http-restricted-api={lock}" in arguments
    assert f"--grpc-restricted-protocol={lock}" in arguments
    assert "--model-control-mode=explicit" in arguments
    assert arguments[-1] == "--log-verbose=1"
