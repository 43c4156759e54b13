"""`synthesize --engine ray`: the data set of the local engine, whatever happens to Ray's processes."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.contract import Array, Tensors
from lostgan_serve.errors import DeviceError, ModelError, OutputError, ServerError
from lostgan_serve.layout import Layout
from lostgan_serve.progress import Advance, Progress
from lostgan_serve.runners import Runner, open_runner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.synthesize.local import make_shards
from lostgan_serve.synthesize.making import Choices, synthesize
from lostgan_serve.synthesize.on_ray import OpenRunner, RayEngine
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.recipe import Recipe
from lostgan_serve.triton.server import running_server
from servers import alive, children, family, serving, until

pytestmark = pytest.mark.slow

CHOICES = Choices(("coco", "yolo", "webdataset"))
LAYOUTS = [Layout.load(path) for path in EXAMPLES]
SHARDS = 7
CPUS, GPUS = 2, 1


@pytest.fixture(scope="module")
def opens(tiny_model: Path) -> OpenRunner:
    return partial(open_runner, "onnxrt", tiny_model, threads=1)


@pytest.fixture(scope="module")
def runner(opens: Callable[[], Runner]) -> Iterator[Runner]:
    opened = opens()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def plan(runner: Runner) -> Plan:
    """Four images of each example, in seven shards."""
    return Plan(LAYOUTS, Recipe(per_layout=4, shard_size=4), runner.manifest.capacity)


@pytest.fixture(scope="module")
def made(plan: Plan, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the local engine."""
    folder = tmp_path_factory.mktemp("local") / "set"
    synthesize(plan, str(folder), runner, CHOICES)
    assert len(list((folder / "parts").iterdir())) == plan.shards == SHARDS
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray with two CPUs and, as far as it knows, a GPU; this process is connected to it."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        ray.init(
            address="local",
            num_cpus=CPUS,
            num_gpus=GPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=folder,
        )
        # actors cannot import it
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def tree(folder: Path) -> dict[str, str]:
    """The hash of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def workers(pid: int) -> list[int]:
    """The actors among the descendants of a process."""
    found = []
    for child in children(pid) if alive(pid) else []:
        with suppress(OSError):  # it is gone
            if b"MapWorker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        found += workers(child)
    return found


class Slow:
    """A runner that takes its time."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner
        self.manifest, self.concurrency = inner.manifest, inner.concurrency

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        time.sleep(0.5)
        return self._inner.run(tensors, outputs)

    def close(self) -> None:
        self._inner.close()


class Watched(Progress):
    """Calls a function with the number of images, whenever there are more."""

    def __init__(self, call: Callable[[float], object]) -> None:
        self._call = call

    @contextmanager
    def count(self, *_: object, **__: object) -> Iterator[Advance]:
        def advance(done: float, _text: str) -> None:
            self._call(done)

        yield advance


# the same data set


@pytest.mark.parametrize(
    ("count", "gpus"), [(None, 0), (5, 0), (None, 0.5)], ids=["one for each CPU", "more than CPUs", "half GPUs"]
)
def test_actors_make_the_data_set_of_the_local_engine(
    cluster: str,
    count: int | None,
    gpus: float,
    opens: OpenRunner,
    plan: Plan,
    runner: Runner,
    made: Path,
    tmp_path: Path,
) -> None:
    folder, told = tmp_path / "set", list[float]()

    counts = synthesize(plan, str(folder), runner, CHOICES, RayEngine(opens, count, gpus), Watched(told.append))
    assert counts == {"images": 28}
    assert tree(folder) == tree(made)
    assert told == [4, 8, 12, 16, 20, 24, 28]
    assert [path.name for path in folder.glob(".*")] == []


def test_fewer_shards_than_workers(
    cluster: str, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    """What is there already is kept: of one that was made in part, only the rest is made."""
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "images" / "00003")
    (folder / "parts" / "00003.json").unlink()
    (folder / "dataset.json").write_text(
        (folder / "dataset.json").read_text().replace('"complete":true', '"complete":false')
    )
    kept = folder / "images" / "00002" / "00000008.png"
    before = kept.stat().st_mtime_ns
    synthesize(plan, str(folder), runner, CHOICES, RayEngine(opens, 4))
    assert tree(folder) == tree(made)
    assert kept.stat().st_mtime_ns == before


def test_a_place_that_fsspec_reaches(
    cluster: str, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    for name, engine in (("here", make_shards), ("there", RayEngine(opens))):
        synthesize(plan, f"file://{tmp_path / name}", runner, CHOICES, engine)
        assert tree(tmp_path / name) == tree(made)


def test_a_command_on_a_cluster_takes_relative_paths(
    cluster: str, tiny_model: Path, made: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    shutil.copytree(tiny_model.parents[1], tmp_path / "model")
    plan = ["--per-layout", "4", "--shard-size", "4", "--format", ",".join(CHOICES.formats)]
    cli("synthesize", *EXAMPLES, *plan, "--model", "model", "--out", "set", "--engine", "ray", cwd=tmp_path, check=True)
    assert tree(tmp_path / "set") == tree(made)


# lost workers


def test_killed_actors_cost_no_image(
    cluster: str, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    """SIGKILL of an actor at random moments, five times."""
    choice, kills = random.Random(0), list[int]()
    ended = threading.Event()

    def kill() -> None:
        while len(kills) < 5 and not ended.wait(choice.random()):
            if found := [pid for pid in workers(os.getpid()) if pid not in kills]:
                kills.append(choice.choice(found))
                os.kill(kills[-1], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(lambda told: Slow(opens(told)), 2))
    finally:
        ended.set()
        killing.join()
    assert len(kills) == 5
    assert tree(tmp_path / "set") == tree(made)


def test_a_shard_that_kills_every_worker(cluster: str, plan: Plan, runner: Runner, tmp_path: Path) -> None:
    """Such as for want of memory: it ends in an error, and not never."""

    def opens(_: Progress) -> Runner:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(DeviceError, match=r"shard 0000\d: 8 of Ray's workers died while they made it"):
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(opens, 1))


# errors


@pytest.mark.parametrize(
    ("count", "gpus", "words"),
    [
        (3, 0.5, "--worker-gpus 0.5: Ray has 1 GPUs, which is room for 2 workers"),
        (None, 2, "--worker-gpus 2: Ray has 1 GPUs, which is room for 0 workers"),
        (None, 1.5, "--worker-gpus 1.5: give a share of one GPU, or a whole number"),
    ],
)
def test_gpus_that_ray_does_not_have(
    cluster: str,
    count: int | None,
    gpus: float,
    words: str,
    opens: OpenRunner,
    plan: Plan,
    runner: Runner,
    tmp_path: Path,
) -> None:
    with pytest.raises(DeviceError, match=words):
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(opens, count, gpus))


def test_a_model_that_actors_do_not_find(cluster: str, plan: Plan, runner: Runner, made: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.onnx"
    with pytest.raises(ModelError, match=str(gone)):
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(partial(open_runner, "onnxrt", gone)))


def test_a_full_disk(cluster: str, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path) -> None:
    def limited(told: Progress) -> Runner:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return opens(told)

    folder = tmp_path / "set"
    with pytest.raises(OutputError, match=r"File too large.*; free some space"):
        synthesize(plan, str(folder), runner, CHOICES, RayEngine(limited))
    assert {path.name for path in folder.iterdir()} == {"dataset.json"}
    synthesize(plan, str(folder), runner, CHOICES, RayEngine(opens))
    assert tree(folder) == tree(made)


def test_machines_that_share_no_folder(cluster: str, opens: OpenRunner, plan: Plan, runner: Runner) -> None:
    """As far as one machine can tell: a place in an actor's own memory."""
    with pytest.raises(OutputError, match=f"{SHARDS} shards were made and are not there; give --out a folder that all"):
        synthesize(plan, "memory://set", runner, CHOICES, RayEngine(opens))


def test_a_server_that_dies_in_mid_run(
    cluster: str, tiny_repository: Path, plan: Plan, made: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    process, (_, grpc, _) = serving(tiny_repository)
    tritonserver, _ = family(process.pid)
    opens = partial(TritonRunner, grpc, patience_s=2)

    def kill() -> None:
        for pid in (process.pid, tritonserver):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    try:
        with closing(opens()) as asking, pytest.raises(ServerError, match=grpc):
            engine = RayEngine(lambda _: Slow(opens()), 1)
            synthesize(plan, str(folder), asking, CHOICES, engine, Watched(lambda _: kill()))
    finally:
        kill()
        process.communicate()
    there = len(list((folder / "parts").iterdir()))
    assert 0 < there < SHARDS
    port = int(grpc.rpartition(":")[2])
    with running_server(tiny_repository, grpc_port=port), closing(opens()) as asking:
        counts = synthesize(plan, str(folder), asking, CHOICES, RayEngine(lambda _: opens(), 2))
    assert counts == {"images": 28}
    assert tree(folder).keys() == tree(made).keys()


# a Ray of its own


QUIET = re.compile(
    r"runner: onnxrt .*|reading layouts: 7/7  0:00:00 left|note: \d+ of 28 shards are there already"
    r"|synthesizing: \d+/1400  \d:\d\d:\d\d left"
)
"""The lines of a command that ends well."""


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


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            if int((process / "stat").read_text("utf-8").rpartition(") ")[2].split()[3]) == leader:
                found.append(int(process.name))
    return [pid for pid in found if alive(pid)]


def test_a_command_that_is_stopped_and_killed(temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path) -> None:
    """By Ctrl-C, SIGTERM and SIGKILL in mid-run; the same command then ends with the data set of the local engine."""
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--per-layout", "200", "--shard-size", "50"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    cli(*command, "--out", whole, check=True)

    def start() -> subprocess.Popen[str]:
        words = [
            str(Path(sys.executable).with_name("lostgan-serve")),
            *map(str, command),
            "--out",
            str(stopped),
            "--engine",
            "ray",
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def parts() -> int:
        return len(list((stopped / "parts").glob("*")))

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process, before = start(), parts()
        until(lambda: parts() > before or process.poll() is not None, within_s=120)  # noqa: B023 - is called at once
        actors = workers(process.pid)
        process.send_signal(number)
        out, told = process.communicate(timeout=60)
        assert process.returncode == code, told
        assert not out
        assert all(QUIET.fullmatch(line) for line in told.splitlines() if line != "stopped"), told
        if number == signal.SIGKILL:
            until(lambda: not any(map(alive, actors)))  # noqa: B023 - is called at once
        else:
            assert not session(process.pid)
            assert not list(temporary.iterdir())
            assert not list(stopped.glob(".*"))
    killed = process.pid
    process = start()
    out, told = process.communicate(timeout=300)
    assert out == "images: 1400\n"
    assert all(map(QUIET.fullmatch, told.splitlines())), told
    assert tree(stopped) == tree(whole)
    assert not session(process.pid)
    assert not session(killed)
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


def test_a_folder_too_deep_for_ray_s_sockets(
    temporary: Path, tiny_model: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--out", tmp_path / "set", "--engine", "ray"]
    fails_in_one_line(cli(*command), ["Ray: it does not start or answer", "AF_UNIX path length"])
    assert not list(deep.iterdir())
