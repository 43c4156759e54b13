"""A real tritonserver that something happens to: it is found out, told in one line, and leaves nothing."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.errors import ModelError, ServerError
from lostgan_serve.processes import children
from lostgan_serve.triton import process as triton_process
from lostgan_serve.triton import watch
from lostgan_serve.triton.server import Endpoints, running_server
from lostgan_serve.triton.server_folder import SHARED_MEMORY, server_folder
from servers import MODEL, alive, fake_triton, family, leaves_nothing, serving, shared_memory, until

NOBODY = 65534

SITE = Path(sys.executable).parents[1] / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

TRITON_WITH_A_DEAD_CHILD = fake_triton(
    """\
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["true"])
"""
)
"""It ignores that it is told to stop, and has a child that dies at once and is not waited for."""


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


@pytest.fixture
def fake_tritonserver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a tritonserver with the given code on PATH."""

    def make(code: str) -> None:
        (tmp_path / "tritonserver").write_text(code)
        (tmp_path / "tritonserver").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


def starts(repository: Path) -> None:
    with running_server(repository):
        pass


def is_ready(http: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=10).status == 200)
    except OSError:
        return False


# Processes that die, or stop, or get no further


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_server_with_a_dead_or_stopped_stub_is_started_again(
    cli: Cli, tiny_repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process, (http, grpc, _) = serving(tiny_repository)
    assert process.stderr
    with leaves_nothing(process):
        _, (stub,) = family(process.pid)
        os.kill(stub, number)
        told = [process.stderr.readline() for _ in range(4)]
        (reason,) = (line for line in told if line.endswith("; starting tritonserver again\n"))
        # whichever is seen first: its state, or that the model does not answer
        assert reason.startswith((f"the Python process of {MODEL} (pid {stub}) has ", f"the model {MODEL} "))
        assert told[-1].startswith("tritonserver is ready again")
        assert is_ready(http)
        cli("client", EXAMPLES[0], "--url", grpc, "--out", tmp_path, check=True)
        assert len([path for path in shared_memory(process.pid) if path.is_file()]) == 1  # the old one's are gone
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_server_whose_stub_is_dead_stops_within_seconds(tiny_repository: Path) -> None:
    process, _ = serving(tiny_repository)
    with leaves_nothing(process):
        _, (stub,) = family(process.pid)
        os.kill(stub, signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
        assert process.returncode == 0
        assert "NVML" not in errors


def test_server_that_fails_again_and_again_is_given_up(
    tiny_repository: Path, fake_tritonserver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lostgan_serve.triton.server import serve

    fake_tritonserver(TRITON_WITH_A_DEAD_CHILD)
    monkeypatch.setattr(watch, "_FAULT_S", 0.5)
    ready: list[Endpoints] = []
    with pytest.raises(ServerError, match=r"; the server was started again 3 times within 5 minutes"):
        serve(tiny_repository, on_ready=ready.append)
    assert len(ready) == 1


def test_server_that_does_not_stop_is_killed(
    tiny_repository: Path, fake_tritonserver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tritonserver(TRITON_WITH_A_DEAD_CHILD.replace("child =", "#"))
    monkeypatch.setattr(triton_process, "_STOP_S", 0.5)
    with running_server(tiny_repository) as endpoints:
        assert is_ready(endpoints.http)
    assert not is_ready(endpoints.http)
    assert not Path(f"/proc/{endpoints.pid}").exists()


def test_start_that_gets_no_further(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / MODEL / "1" / "model.py").write_text("import time\ntime.sleep(10000)\n")
    monkeypatch.setattr(watch, "_STALL_S", 3.0)
    with pytest.raises(ServerError, match=rf"did nothing for 3 s while loading {MODEL}; the last line of its log: .+"):
        starts(repository)


@pytest.mark.parametrize("code", ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(3)"])
def test_stub_that_dies_at_the_start(repository: Path, code: str) -> None:
    (repository / MODEL / "1" / "model.py").write_text(f"{code}\n")
    with pytest.raises(ServerError, match="tritonserver did not start: ") as caught:
        starts(repository)
    assert MODEL in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_files_for_the_server(tiny_repository: Path) -> None:
    command = ["prlimit", "--nofile=32:32", str(Path(sys.executable).parent / "lostgan-serve"), "serve"]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    done = subprocess.run(
        [*command, "--repository", str(tiny_repository), *ports], capture_output=True, text=True, timeout=120
    )
    fails_in_one_line(done, ["32 files", "ulimit -n"])


def test_shared_memory_that_cannot_be_written(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lostgan_serve.triton.server_folder.SHARED_MEMORY", tmp_path / "missing")
    with pytest.raises(ServerError, match=r"missing: a server's files cannot be written there .*--shm-size"):
        starts(tiny_repository)


# Models that cannot be served


def test_model_that_triton_cannot_load(
    repository: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSTGAN_SERVE_RUNNER", "abacus")
    with pytest.raises(ServerError) as caught:
        starts(repository)
    assert f"failed to load '{MODEL}' version 1" in str(caught.value)
    assert "'abacus'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the error says it all


def test_model_that_is_not_the_exported_one_is_refused_before_the_start(repository: Path) -> None:
    model = repository / MODEL / "1" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 0x40
    model.write_bytes(data)
    with pytest.raises(ModelError, match=f"{model}: is not the file that export made"):
        starts(repository)


@pytest.mark.parametrize("name", ["2_test", "2 copy", "3"])
def test_folder_that_triton_would_take_for_a_version(cli: Cli, repository: Path, name: str) -> None:
    stray = repository / MODEL / name
    shutil.copytree(repository / MODEL / "1", stray)
    (stray / "model.onnx").unlink()
    fails_in_one_line(cli("serve", "--repository", repository), [stray])


@pytest.mark.parametrize("name", ["1_old", "2"])
def test_what_is_no_newer_version_does_not_keep_the_server_from_starting(repository: Path, name: str) -> None:
    stray = repository / MODEL / name
    if name == "2":
        stray.write_text("a file")
    else:
        shutil.copytree(repository / MODEL / "1", stray)
    starts(repository)


def test_name_that_no_model_can_have(cli: Cli, repository: Path) -> None:
    (repository / MODEL).rename(repository / "my model")
    fails_in_one_line(cli("serve", "--repository", repository), [repository / "my model", "--name"])


# Paths


def test_paths_may_hold_any_character(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / os.fsdecode("my models; (1) 'é' \"\n$HOME* & \\ :".encode() + b"\xff")
    (odd / "tmp").mkdir(parents=True)
    for variable in ("TMPDIR", "HOME"):
        monkeypatch.setenv(variable, str(odd / "tmp"))
    starts(Path(shutil.copytree(repository, odd / "repository")))


def test_wheel_may_lie_at_any_path(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "My Projects: (2)" / "site-packages"
    for name in ("pytriton", "nvidia_pytriton.libs"):
        shutil.copytree(SITE / name, site / name)
    monkeypatch.syspath_prepend(str(site))
    with running_server(repository) as endpoints:
        assert Path(f"/proc/{endpoints.pid}/exe").readlink().is_relative_to(site)


def test_temporary_folder_need_not_be_writable(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    starts(repository)


# What is left, and what others see


def test_next_start_removes_what_killed_servers_left(server: Endpoints, tiny_repository: Path) -> None:
    killed, _ = serving(tiny_repository)
    running, _ = serving(tiny_repository)
    tritonserver, stubs = family(killed.pid)
    for pid in (killed.pid, tritonserver, *stubs):
        os.kill(pid, signal.SIGKILL)
    killed.communicate(timeout=30)
    until(lambda: not any(map(alive, (tritonserver, *stubs))))  # or they hold their folder's lock still
    assert shared_memory(killed.pid)
    before = shared_memory(running.pid)
    with leaves_nothing(running), running_server(tiny_repository):
        assert not shared_memory(killed.pid)
        assert shared_memory(running.pid) == before
        assert is_ready(server.http)
        running.terminate()


def test_what_dies_while_a_server_runs_leaves_nothing_after_it() -> None:
    """The processes of a server that was killed hold its folder for a moment still."""
    dying = SHARED_MEMORY / "lostgan-serve-1-11111111"
    dying.mkdir()
    lock = os.open(dying, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with server_folder():
        assert dying.is_dir()
        os.close(lock)
    assert not dying.exists()


def test_other_users_folders_are_left_to_them() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    theirs = SHARED_MEMORY / "lostgan-serve-1-00000000"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    try:
        with server_folder():
            assert theirs.is_dir()
    finally:
        theirs.rmdir()


def test_nobody_else_reads_requests_and_pictures(cli: Cli, tiny_repository: Path, tmp_path: Path) -> None:
    process, (_, grpc, _) = serving(tiny_repository)
    with leaves_nothing(process):
        cli("client", EXAMPLES[0], "--url", grpc, "--out", tmp_path, check=True)
        for path in shared_memory(process.pid):
            assert path.stat().st_mode & 0o077 == 0
            if os.geteuid() == 0:
                command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat", str(path)]
                assert subprocess.run(command, capture_output=True, text=True).stdout == ""
        process.terminate()


def test_onnx_runtime_is_told_to_send_no_telemetry(server: Endpoints) -> None:
    for pid in (server.pid, *children(server.pid)):
        assert b"ORT_DISABLE_TELEMETRY=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_server_may_open_as_many_files_as_the_system_allows(tiny_repository: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1] - 1), before[1]))
    try:
        with running_server(tiny_repository) as endpoints:
            limits = Path(f"/proc/{endpoints.pid}/limits").read_text(encoding="utf-8")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    ((soft, hard),) = [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")]
    assert soft == hard
