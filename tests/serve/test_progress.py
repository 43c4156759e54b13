"""A standard error that takes nothing, as on a full disk: what is told there is lost, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import EXAMPLES
from servers import fake_triton

LOSTGAN_SERVE = str(Path(sys.executable).with_name("lostgan-serve"))

# Prints more than a pipe holds before it is ready.
TRITON_OF_MANY_WORDS = fake_triton(
    """\
for _ in range(4000):
    print("I0101 " + "x" * 100)
"""
)


def run_untold(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [LOSTGAN_SERVE, *map(str, arguments)]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=120)


def test_pictures_are_written_all_the_same(tiny_repository: Path, tmp_path: Path) -> None:
    done = run_untold("generate", EXAMPLES[0], "--model", tiny_repository / "lostgan_128", "--out", tmp_path)
    assert done.returncode == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}
    assert len(done.stdout.splitlines()) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "arguments", [("generate", "missing.json"), ("generate", "--missing"), ("serve", "--host", "")]
)
def test_errors_keep_their_exit_code(arguments: tuple[str, ...]) -> None:
    assert run_untold(*arguments).returncode == 2


def test_the_server_s_log_is_read_all_the_same(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tritonserver").write_text(TRITON_OF_MANY_WORDS)
    (tmp_path / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    command = [LOSTGAN_SERVE, "serve", "--repository", str(tiny_repository), "--verbose", *ports]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=full, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("HTTP")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
