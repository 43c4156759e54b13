"""No command looks anything up, calls anybody, or leaves anything in the home folder or among temporary files."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import EXAMPLES, run_cli
from documents import commands
from editing import FAULTY, QUICK, a_layout, editing, received
from lostgan_serve.contract import input_specs
from lostgan_serve.processes import family
from offline import CLI, Offline, addresses, require_offline, strangers
from servers import MODEL, serving

SECRET, NUMBER = "what-the-user-drew", 987654321

TORCHS, MATPLOTLIBS = r"tmp/torchinductor_[^/]+", r"home/\.(cache|config)(/matplotlib(/fontlist-[^/]+)?)?"
EDITORS = r"home/\.local(/state(/lostgan-serve(/editor-token)?)?)?"
"""What others leave, and the editor: an empty folder where torch is compiled with, a list of fonts, and the token that
lets open pages connect again."""

_HELP = """\
import sys
from lostgan_serve.commands import main
for name in sys.argv[1:]:
    main.main([name, "--help"], standalone_mode=False)
"""

_SERVED = """\
import subprocess, sys
from pathlib import Path
from lostgan_serve.triton.server import running_server
cli, repository, layout = sys.argv[1:]
with running_server(Path(repository)) as endpoints:
    for url in (endpoints.grpc, f"http://{endpoints.http}"):
        subprocess.run([cli, "client", layout, "--url", url, "--out", url[:4]], check=True)
"""

_EDITED = """\
import re, subprocess, sys, urllib.request
cli, model, layout = sys.argv[1:]
command = [cli, "edit", "--model", model, "--no-browser", "--port", "0"]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
url, token = next(match.groups() for match in (re.search("(http://.+/)#token=(.+)", line) for line in process.stdout)
                  if match)
headers = {"Authorization": f"Bearer {token}"}
request = urllib.request.Request(f"{url}api/generate?outputs=image", open(layout, "rb").read(), headers)
print(len(urllib.request.urlopen(request, timeout=60).read()), "bytes")
process.terminate()
process.communicate(timeout=60)
"""

_CALLER = "import socket; socket.getaddrinfo('collector.example', 443)"


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    require_offline()
    return Offline(tmp_path)


def assert_private(offline: Offline, *exceptions: str) -> None:
    """Assert that the last command spoke to nobody else, and that nothing is left of it but the exceptions."""
    assert not strangers(offline.spoken_to())
    assert not [path for path in offline.left() if not any(re.fullmatch(each, path) for each in exceptions)]


def in_shared_memory(pid: int) -> list[Path]:
    """The files in shared memory that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.append(link.readlink())
    return [path for path in found if path.is_relative_to("/dev/shm") and path.exists()]


def test_help_of_every_command(offline: Offline) -> None:
    printed = offline.run(sys.executable, "-c", _HELP, *commands())
    assert printed.count("Usage: ") == len(commands()) > 20
    assert_private(offline)


def test_labels(offline: Offline) -> None:
    assert "sky\n" in offline.run(CLI, "labels")
    assert_private(offline)


@pytest.mark.parametrize("runner", ["onnxrt", "openvino"])
def test_generate(runner: str, offline: Offline, tiny_repository: Path) -> None:
    """Both look up their makers' collectors, and keep an id of the device, unless they are kept from it."""
    offline.run(CLI, "generate", EXAMPLES[0], "--model", tiny_repository / MODEL, "--runner", runner)
    assert len(list((offline.work / "out").glob("*.png"))) == 3
    assert_private(offline)


@pytest.mark.long
def test_figures(offline: Offline, tiny_repository: Path) -> None:
    model = tiny_repository / MODEL
    for name, layouts in (("morph", EXAMPLES[:1]), ("styles", EXAMPLES[:1]), ("compare", EXAMPLES[:2])):
        offline.run(CLI, name, *layouts, "--model", model, "--out", name)
        assert list((offline.work / name).glob("*.png"))
        assert_private(offline)


@pytest.mark.long
def test_the_editor(offline: Offline, tiny_repository: Path) -> None:
    printed = offline.run(sys.executable, "-c", _EDITED, CLI, tiny_repository / MODEL, EXAMPLES[0])
    assert int(printed.split()[-2]) > 64 * 64
    assert_private(offline, EDITORS)


@pytest.mark.long
def test_a_data_set_by_ray(offline: Offline, tiny_repository: Path) -> None:
    offline.run(CLI, "synthesize", *EXAMPLES[:2], "--model", tiny_repository / MODEL, "--out", "set", "--engine", "ray")
    assert (offline.work / "set/annotations/instances.json").is_file()
    assert_private(offline)


@pytest.mark.slow
def test_a_server_and_its_clients(offline: Offline, tiny_repository: Path) -> None:
    offline.run(sys.executable, "-c", _SERVED, CLI, tiny_repository, EXAMPLES[0])
    assert len(list(offline.work.glob("*/*.png"))) == 6
    assert offline.spoken_to()
    assert_private(offline)


@pytest.mark.long
def test_export(offline: Offline, small_checkpoint: Path) -> None:
    offline.run(CLI, "export", "--res", "64", "--checkpoint", small_checkpoint, "--repository", "repository")
    assert (offline.work / "repository/lostgan_64/1/model.onnx").is_file()
    assert_private(offline, TORCHS)


@pytest.mark.long
def test_training_measuring_and_making_data(offline: Offline, tiny_repository: Path) -> None:
    model = tiny_repository / MODEL
    small = ("--variant", "v1-64", "--ch", 2, "--batch", 4, "--perceptual", "none", "--workers", 0)
    few = ("--split", "train", "--count", 4, "--samples", 2, "--metrics", "ds")
    for words in (
        ("scenes", "--out", "data", "--count", 24, "--res", 64),
        ("train", "--data", "data", "--out", "run", "--steps", 2, *small),
        ("synthesize", *EXAMPLES[:2], "--model", model, "--out", "set"),
        ("evaluate", model, "--data", "data", "--out", "measured", *few),
        ("report", "measured/evaluation.json", "--out", "report.html"),
    ):
        offline.run(CLI, *words)
        assert_private(offline, TORCHS, MATPLOTLIBS)


def test_a_look_up_would_be_noticed(offline: Offline) -> None:
    """A nameserver is asked over the network, or the answer is in a file: here there is neither for that name."""
    offline.run(sys.executable, "-c", f"try:\n  {_CALLER}\nexcept OSError: pass")
    nameservers = [
        line.split()[1] for line in Path("/etc/resolv.conf").read_text("utf-8").splitlines() if "namese" in line
    ]
    assert offline.spoken_to() & {*nameservers, "127.0.0.1"}


# Of a server's clients


@dataclass(frozen=True)
class Served:
    """A server that answered right and wrong requests. modes: of the files in shared memory that its processes had
    open. log: all that it printed."""

    modes: dict[Path, int]
    log: str


@pytest.fixture(scope="module")
def served(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """It was started with a umask that keeps nobody out."""
    folder = tmp_path_factory.mktemp("served")
    layout = folder / f"{SECRET}.json"
    layout.write_text(json.dumps({"objects": [{"label": "sky", "box": [0, 0, 1, 1], "id": SECRET}]}))
    before = os.umask(0)
    try:
        process, (http, grpc, _) = serving(tiny_repository)
    finally:
        os.umask(before)
    try:
        for url in (grpc, f"http://{http}"):
            run_cli("client", layout, "--url", url, "--out", folder / url[:4], check=True)
        modes = {path: path.stat().st_mode for pid in family(process.pid) for path in in_shared_memory(pid)}
        for body in wrong_bodies():
            answered(http, f"/v2/models/{MODEL}/infer", body)
        answered(http, f"/v2/models/{SECRET}/infer", b"{}")
        answered(http, f"/{SECRET}?{SECRET}=1", b"{}")
    finally:
        process.terminate()
        log = "".join(process.communicate(timeout=60))
    assert process.returncode == 0
    return Served(modes, log)


@pytest.mark.slow
def test_the_log_of_a_server_holds_nothing_of_requests(served: Served) -> None:
    assert not [secret for secret in (SECRET, str(NUMBER)) if secret in served.log], served.log


@pytest.mark.slow
def test_shared_memory_is_closed_to_others_whatever_the_umask(served: Served) -> None:
    assert served.modes
    assert not [path for path, mode in served.modes.items() if mode & 0o077]


def wrong_bodies() -> list[bytes]:
    """Requests that a server refuses: each holds SECRET or NUMBER."""
    inputs = [
        {
            "name": spec.name,
            "datatype": {"i": "INT64", "f": "FP32"}[spec.dtype.kind],
            "shape": [1, *spec.dims],
            "data": [NUMBER] * math.prod(spec.dims),
        }
        for spec in input_specs(12)
    ]
    return [
        json.dumps({"id": SECRET, "inputs": inputs}).encode(),
        json.dumps({"id": SECRET, "inputs": [{**inputs[0], "name": SECRET}]}).encode(),
        json.dumps({"id": SECRET, "inputs": [{**inputs[0], "datatype": SECRET}]}).encode(),
        json.dumps({"inputs": inputs[:1], "outputs": [{"name": SECRET}]}).encode(),
        f'{{"id": "{SECRET}", '.encode(),
        SECRET.encode(),
    ]


def answered(address: str, path: str, body: bytes) -> None:
    """Send a request that is refused."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("POST", path, body, {"X-Note": SECRET, "Authorization": f"Bearer {SECRET}"})
        response = connection.getresponse()
        response.read()
        assert 400 <= response.status < 500, (path, body, response.status)
    finally:
        connection.close()


def test_the_log_of_the_editor_holds_nothing_of_requests(tmp_path: Path) -> None:
    layout = {"objects": [{"label": QUICK, "box": [0, 0, 1, 1], "id": SECRET}]}
    with editing(tmp_path) as running:
        assert running.generate(layout).status == 200
        assert running.generate(a_layout(SECRET)).status == 400
        assert running.generate(a_layout(FAULTY)).status == 500
        assert running.ask(f"/api/open?name={SECRET}", SECRET.encode()).status == 400
        assert running.ask(f"/{SECRET}").status == 404
        assert received(running.connect(f"{SECRET} HTTP/9\r\n\r\n"))
        log = running.stop()
    assert "error: RuntimeError at " in log
    assert SECRET not in log


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
