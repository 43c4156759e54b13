"""The soak: its counts, its measure of memory, and what it says of a server that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lostgan_export.bench.soak_memory import MemorySampler, growth_percent
from lostgan_export.commands.soak import bench_soak
from lostgan_serve.errors import LostganError, ServerError
from servers import family, serving


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[tuple[int, list[str]]]:
    """The pid of a serving process and its addresses."""
    process, endpoints = serving(tiny_repository)
    yield process.pid, endpoints
    process.terminate()
    process.communicate(timeout=60)


def run(*words: object) -> Result:
    return CliRunner().invoke(bench_soak, list(map(str, words)), catch_exceptions=False)


def soaked(folder: Path, *words: object) -> dict[str, Any]:
    """The figures that a short soak writes."""
    done = run(*words, "--minutes", 0.05, "--capacity-seconds", 1, "--json", folder / "soak.json")
    assert done.exit_code == 0, done.output
    figures: dict[str, Any] = json.loads((folder / "soak.json").read_text())
    return figures


@pytest.mark.parametrize("protocol", ["grpc", pytest.param("http", marks=pytest.mark.long)])
def test_mixed_traffic(server: tuple[int, list[str]], tmp_path: Path, protocol: str) -> None:
    pid, (http, grpc, *_) = server
    url = f"{protocol}://{grpc if protocol == 'grpc' else http}"
    options = ("--pid", pid, "--wrong", 0.5, "--share", 0.5, "--plot", tmp_path / "soak.png")
    figures = soaked(tmp_path, "--url", url, *options)
    sent, refused = figures["sent"], figures["refused"]
    assert figures["errors"] == {}
    assert figures["different"] == 0
    assert refused == {kind: count for kind, count in sent.items() if kind != "valid"}
    assert len(refused) >= 3
    assert sum(minute["answered"] for minute in figures["minutes"]) == sent["valid"]
    assert len(figures["memory"]["by_process"]) >= 3
    assert min(figures["memory"]["pss_mib"]) > 20
    assert Image.open(tmp_path / "soak.png").format == "PNG"


@pytest.mark.long
def test_errors_that_nobody_asked_for_are_counted(tiny_repository: Path, tmp_path: Path) -> None:
    process, (_, grpc, *_) = serving(tiny_repository)

    def kill() -> None:
        time.sleep(3)
        os.kill(family(process.pid)[1][0], signal.SIGKILL)

    threading.Thread(target=kill).start()
    figures = soaked(tmp_path, "--url", grpc, "--wrong", 0)
    process.terminate()
    process.communicate(timeout=60)
    failed = sum(figures["errors"].values())
    assert failed
    assert all(text.startswith("valid: ServerUnavailableError: ") for text in figures["errors"])
    assert figures["sent"]["valid"] == failed + sum(minute["answered"] for minute in figures["minutes"])


def test_no_server_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no server is ready"):
        run("--url", "localhost:1")


def test_process_that_is_not_there(server: tuple[int, list[str]]) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(LostganError, match=f"--pid {ended.pid}: no such process"):
        run("--url", server[1][1], "--pid", ended.pid, "--capacity-seconds", 0.1)


def test_memory_that_grows_is_seen() -> None:
    code = "import time; kept = bytearray(1)\nwhile True: kept += bytes(2**20); time.sleep(0.02)"
    with subprocess.Popen(["python3", "-c", code]) as process:
        with MemorySampler(process.pid, every_s=0.05) as sampler:
            time.sleep(1.5)
        process.kill()
    assert sampler.memory().growth_percent > 50


@pytest.mark.parametrize(
    ("samples", "percent"),
    [([100.0] * 40, 0), ([10.0] * 4 + [100.0] * 36, 0), ([100.0] * 20 + [110.0] * 20, 10), ([100.0], 0)],
)
def test_growth_is_that_after_the_warm_up(samples: list[float], percent: float) -> None:
    assert growth_percent(samples) == pytest.approx(percent)
