"""Processes that run `serve`, and what is left of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lostgan_serve.contract import OUTPUT_NAMES, Array, empty_batch
from lostgan_serve.model_folder import ModelFolder
from lostgan_serve.processes import children, sizes_kib
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.triton.configuration import write_configuration
from lostgan_serve.triton.server import Endpoints

MODEL = "lostgan_128"

PYTHON = f"""#!/bin/sh
''''exec {shlex.quote(sys.executable)} "$0" "$@" # '''"""
"""First lines of a program in Python. The shell starts it, since a `#!` line takes no path with a space."""

_FAKE = """\
import concurrent.futures, grpc, sys
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda *_: bytes([8, 1]))
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), [Handler()])
server.add_insecure_port(options["--grpc-address"] + ":" + options["--grpc-port"])
server.start()
server.wait_for_termination()
"""


def fake_triton(first: str) -> str:
    """The code of a tritonserver that is ready at once, and does nothing else. first: what it begins with."""
    return f"{PYTHON}\n{first}{_FAKE}"


_SERVE = """\
import sys
from pathlib import Path
from lostgan_serve.progress import ConsoleProgress
from lostgan_serve.triton.server import serve
print("starting")
ready = lambda endpoints: print("ready", endpoints.http, endpoints.grpc, endpoints.metrics)
sys.exit(serve(Path(sys.argv[1]), on_ready=ready, progress=ConsoleProgress()))
"""


def starting(repository: Path) -> subprocess.Popen[str]:
    """A process that is about to run `serve` on free ports; it has printed one line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, repository],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    assert process.stdout.readline() == "starting\n"
    return process


def serving(repository: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """A process that runs `serve` on free ports, and where it answers over HTTP, over gRPC and with metrics."""
    process = starting(repository)
    assert process.stdout
    word, *endpoints = process.stdout.readline().split()
    assert word == "ready"
    return process, endpoints


def family(pid: int) -> tuple[int, list[int]]:
    """The pids of a serving process's tritonserver and of its stubs."""
    (tritonserver,) = (child for child in children(pid) if child != gateway(pid))
    stubs = children(tritonserver)
    assert stubs
    return tritonserver, stubs


def gateway(pid: int) -> int:
    """The pid of a serving process's gateway."""
    (found,) = (each for each in children(pid) if b"gateway" in Path(f"/proc/{each}/cmdline").read_bytes())
    return found


def alive(pid: int) -> bool:
    """Whether any thread of a process is. The first may be a zombie while others still hold the files open."""
    try:
        stats = [task.joinpath("stat").read_text(encoding="utf-8") for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return any(stat.rpartition(") ")[2][0] != "Z" for stat in stats)


def shared_memory(pid: int) -> list[Path]:
    """The folder and the segments of a serving process."""
    return list(Path("/dev/shm").glob(f"lostgan-serve-{pid}-*"))


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for a condition, and no longer."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def leaves_nothing(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yields the pid of tritonserver; whatever the block does to it, nothing may be left of it 20 s later."""
    tritonserver, stubs = family(process.pid)
    processes = (process.pid, gateway(process.pid), tritonserver, *stubs)
    assert shared_memory(process.pid)
    try:
        yield tritonserver
        until(lambda: not any(map(alive, processes)) and not shared_memory(process.pid))
    finally:
        process.kill()


def asked(netloc: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{netloc}{path}", body, named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def layouts(batch: int = 1, slots: int = 12) -> dict[str, Array]:
    """Tensors of layouts with one object each."""
    tensors = empty_batch(batch, slots)
    tensors["labels"][:, 0] = 3
    tensors["boxes"][:, 0] = (0.1, 0.1, 0.5, 0.5)
    tensors["z_obj"][:, 0] = 1
    return tensors


def assert_answers(runner: TritonRunner, local: OnnxRunner) -> None:
    """Assert that a server's answer is the model's own."""
    found, expected = runner.run(layouts(), OUTPUT_NAMES), local.run(layouts(), OUTPUT_NAMES)
    assert list(found) == list(OUTPUT_NAMES)
    for name in OUTPUT_NAMES:
        np.testing.assert_array_equal(found[name], expected[name])


def memory_mib(endpoints: Endpoints) -> float:
    """The memory of tritonserver, its stubs and the gateway."""
    parent = int(Path(f"/proc/{endpoints.pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[1])
    pids = {*children(parent), endpoints.pid, *children(endpoints.pid)}
    return sum(sizes_kib(pid)["Pss"] for pid in pids) / 1024


def another_model(repository: Path, copy: Path) -> Path:
    """The same repository, whose model says that it has other weights."""
    from lostgan_export.onnx_export import set_manifest  # torch takes seconds, and few tests need it

    shutil.copytree(repository, copy)
    folder = ModelFolder(copy / MODEL)
    version = folder.newest()
    manifest = version.manifest().model_copy(update={"checkpoint_sha256": "0" * 64, "onnx_sha256": None})
    set_manifest(version.onnx, manifest)
    version.write_manifest(manifest)
    write_configuration(folder, manifest)
    return copy
