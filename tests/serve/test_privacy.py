"""No command looks anything up, calls anybody, or leaves anything in the home folder or among temporary files."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import EXAMPLES
from documents import commands
from offline import CLI, Offline, addresses, require_offline, strangers
from servers import MODEL, children

_HELP = """\
import sys
from lostgan_serve.commands import main
for name in sys.argv[1:]:
    main.main([name, "--help"], standalone_mode=False)
"""

_SERVED = """\
import os, subprocess, sys
from pathlib import Path
from lostgan_serve.triton.server import running_server
cli, repository, layout = sys.argv[1:]
os.umask(0)
with running_server(Path(repository)) as endpoints:
    for url in (endpoints.grpc, f"http://{endpoints.http}"):
        subprocess.run([cli, "client", layout, "--url", url, "--out", url[:4]], check=True)
    print("served", flush=True)
    sys.stdin.read()
"""

OPENVINO_CALLS_ITS_MAKER = pytest.mark.xfail(
    strict=True, reason="importing openvino sends its maker an event, and keeps an id of the device in ~/intel"
)

_CALLER = "import socket; socket.getaddrinfo('collector.example', 443)"


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    require_offline()
    return Offline(tmp_path)


def assert_private(offline: Offline) -> None:
    """Assert that the last command spoke to nobody else, and that nothing is left of it but an empty folder of torch's,
    which it makes where it exports."""
    assert not strangers(offline.spoken_to())
    assert not [path for path in offline.left() if not re.fullmatch("tmp/torchinductor_[^/]+", path)]


def family(pid: int) -> list[int]:
    """A process and all that it and its children have started."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def open_files(pid: int) -> list[Path]:
    """The files that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.append(link.readlink())
    return found


def test_help_of_every_command(offline: Offline) -> None:
    printed = offline.run(sys.executable, "-c", _HELP, *commands())
    assert printed.count("Usage: ") == len(commands()) > 20
    assert_private(offline)


@pytest.mark.parametrize("runner", ["onnxrt", pytest.param("openvino", marks=OPENVINO_CALLS_ITS_MAKER)])
def test_generate(runner: str, offline: Offline, tiny_repository: Path) -> None:
    """onnxruntime looks up its maker's collector, and keeps an id of the device, unless it is told not to."""
    offline.run(CLI, "generate", EXAMPLES[0], "--model", tiny_repository / MODEL, "--runner", runner)
    assert len(list((offline.work / "out").glob("*.png"))) == 3
    assert_private(offline)


@pytest.mark.slow
def test_a_server_and_its_clients(offline: Offline, tiny_repository: Path) -> None:
    offline.run(sys.executable, "-c", _SERVED, CLI, tiny_repository, EXAMPLES[0], stdin="")
    assert len(list(offline.work.glob("*/*.png"))) == 6
    assert offline.spoken_to()
    assert_private(offline)


@pytest.mark.slow
def test_shared_memory_is_closed_to_others_whatever_the_umask(tiny_repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SERVED, CLI, str(tiny_repository), str(EXAMPLES[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdout
            assert b"served\n" in iter(process.stdout.readline, b"")
            opened = {path for pid in family(process.pid) for path in open_files(pid)}
            segments = {path for path in opened if path.is_relative_to("/dev/shm") and path.exists()}
            assert segments
            for path in segments:
                assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        finally:
            process.stdin.close() if process.stdin else None
            assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_export(offline: Offline, small_checkpoint: Path) -> None:
    offline.run(CLI, "export", "--res", "64", "--checkpoint", small_checkpoint, "--repository", "repository")
    assert (offline.work / "repository/lostgan_64/1/model.onnx").is_file()
    assert_private(offline)


@pytest.mark.long
def test_training_measuring_and_making_data(offline: Offline, tiny_repository: Path) -> None:
    model = tiny_repository / MODEL
    small = ("--variant", "v1-64", "--ch", 2, "--batch", 4, "--perceptual", "none", "--workers", 0)
    offline.run(CLI, "scenes", "--out", "data", "--count", 24, "--size", 64)
    assert_private(offline)
    offline.run(CLI, "train", "--data", "data", "--out", "run", "--steps", 2, *small)
    assert_private(offline)
    offline.run(CLI, "synthesize", *EXAMPLES[:2], "--model", model, "--out", "set")
    assert_private(offline)
    offline.run(CLI, "evaluate", model, "--data", "data", "--count", 4, "--samples", 1, "--out", "measured")
    assert_private(offline)
    offline.run(CLI, "report", "measured")
    assert_private(offline)


def test_a_look_up_would_be_noticed(offline: Offline) -> None:
    """A nameserver is asked over the network, or the answer is in a file: here there is neither for that name."""
    offline.run(sys.executable, "-c", f"try:\n  {_CALLER}\nexcept OSError: pass")
    nameservers = [
        line.split()[1] for line in Path("/etc/resolv.conf").read_text("utf-8").splitlines() if "namese" in line
    ]
    assert offline.spoken_to() & {*nameservers, "127.0.0.1"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            '7 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.7")}, 16) = -1',
            "192.0.2.7",
        ),
        (
            '7 connect(3, {sa_family=AF_INET6, sin6_port=htons(443), inet_pton(AF_INET6, "2001:db8::7", &sin6_addr)}',
            "2001:db8::7",
        ),
        (
            '7 sendto(3, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.7")}, 16',
            "192.0.2.7",
        ),
        ('7 connect(3, {sa_family=AF_UNIX, sun_path="/tmp/x"}, 16) = 0', None),
        ('7 bind(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("0.0.0.0")}, 16) = 0', None),
    ],
)
def test_addresses_in_a_trace(line: str, found: str | None) -> None:
    assert list(addresses(line)) == ([] if found is None else [found])
    assert strangers({"127.0.0.53", "::1", "::ffff:127.0.0.1"}) == set()
