"""The command `synthesize --engine ray` with a Ray of its own: nothing of it is left or heard of, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import EXAMPLES, Cli, fails_in_one_line, tree
from lostgan_serve.processes import children
from rays import session, title, workers
from servers import until

pytestmark = pytest.mark.slow

QUIET = re.compile(
    r"runner: onnxrt .*|reading layouts: 7/7  0:00:00 left|note: \d+ of 28 shards are there already"
    r"|synthesizing: \d+/1400  \d:\d\d:\d\d left"
)
"""The lines of a command that ends well."""

RAY_ENDED = "error: Ray: it ended (one of its processes is gone); the same command goes on"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, and no sign of the Ray of the other tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="tmp-") as folder:  # names of sockets are short
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.long
def test_a_command_that_is_killed(temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path) -> None:
    """In mid-run, by Ctrl-C, SIGTERM, SIGKILL, and that of a part of Ray; the same command then ends with the data set
    of the local engine."""
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--per-layout", "200", "--shard-size", "50"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cli(*command, "--out", whole, check=True)
    words = [Path(sys.executable).with_name("lostgan-serve"), *command, "--out", killed, "--engine", "ray"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def parts() -> int:
        return len(list((killed / "parts").glob("*")))

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9), (None, 2)):
        process, before = start(), parts()
        until(lambda: parts() > before or process.poll() is not None, within_s=120)  # noqa: B023 - is called at once
        (driver,) = children(process.pid)
        assert workers(driver)
        if number is None:
            (raylet,) = (pid for pid in children(driver) if "/raylet/raylet" in title(pid))
            os.kill(raylet, signal.SIGKILL)
        else:
            process.send_signal(number)
        out, told = process.communicate(timeout=60)
        assert process.returncode == code, told
        assert not out
        *lines, last = told.splitlines()
        assert all(map(QUIET.fullmatch, lines)), told
        assert QUIET.fullmatch(last) or last in ("stopped", RAY_ENDED)
        if number in (signal.SIGTERM, signal.SIGKILL):  # the driver does it
            until(lambda: not session(driver) and not list(temporary.iterdir()))  # noqa: B023 - is called at once
        assert not session(driver)
        assert not list(temporary.iterdir())
    process = start()
    until(lambda: bool(children(process.pid)))
    (driver,) = children(process.pid)
    out, told = process.communicate(timeout=300)
    assert out == "images: 1400\n"
    assert all(map(QUIET.fullmatch, told.splitlines())), told
    assert tree(killed) == tree(whole)
    assert not session(driver)
    assert not list(temporary.iterdir())
    assert not (tmp_path / "home").exists()


def test_gpus_of_a_machine_without(temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path) -> None:
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--out", tmp_path / "set", "--engine", "ray"]
    done = cli(*command, "--worker-gpus", "0.5")
    fails_in_one_line(done, ["--worker-gpus 0.5: Ray has 0 GPUs", "leave it out to use CPUs"])
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://localhost:1"])
def test_a_cluster_that_is_not_there(
    address: str, temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--out", tmp_path / "set", "--engine", "ray"]
    fails_in_one_line(cli(*command), [f"RAY_ADDRESS={address}: no Ray there", "unset RAY_ADDRESS"])


@pytest.mark.long
def test_a_folder_too_deep_for_ray_s_sockets_is_done_without(
    temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--out", tmp_path / "set", "--engine", "ray"]
    cli(*command, check=True)
    assert not list(deep.iterdir())


def test_a_python_in_a_folder_with_a_space(temporary: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A shell starts Ray's workers; they died at once, and Ray started others for ever."""
    (tmp_path / "my projects").mkdir()
    environment = tmp_path / "my projects" / "venv"
    environment.symlink_to(Path(sys.prefix))
    command = [environment / "bin" / "python", environment / "bin" / "lostgan-serve", "synthesize", EXAMPLES[0]]
    command += ["--model", tiny_model, "--out", tmp_path / "set", "--engine", "ray"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "set" / "images").rglob("*.png"))
