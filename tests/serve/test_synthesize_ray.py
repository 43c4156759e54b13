"""`synthesize --engine ray`: the data set of the local engine, whatever happens to Ray's processes."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from conftest import EXAMPLES, Cli, tree
from lostgan_serve.contract import Array, Tensors
from lostgan_serve.errors import DeviceError, ModelError, OutputError, ServerError
from lostgan_serve.layout import Layout
from lostgan_serve.progress import SILENT, Advance, Progress
from lostgan_serve.runners import Runner, open_runner
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.synthesize.local import make_shards
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.on_ray import RayEngine
from lostgan_serve.synthesize.plan import Plan
from lostgan_serve.synthesize.ray_driver import OpenRunner
from lostgan_serve.synthesize.recipe import Choices, Recipe
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.server import running_server
from rays import cluster, workers
from servers import family, serving

pytestmark = pytest.mark.slow

CHOICES = Choices(("coco", "yolo", "webdataset"))
LAYOUTS = [Layout.load(path) for path in EXAMPLES]
SHARDS = 7


@pytest.fixture(scope="module")
def opens(tiny_model: Path) -> OpenRunner:
    return partial(open_runner, "onnxrt", tiny_model, threads=1)


@pytest.fixture(scope="module")
def runner(opens: OpenRunner) -> Iterator[Runner]:
    opened = opens(SILENT)
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
def ray() -> Iterator[int]:
    with cluster() as pid:
        yield pid


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


def slowly(opens: OpenRunner, told: Progress) -> Runner:
    """A runner that takes its time."""
    return Slow(opens(told))


def asking(grpc: str, told: Progress) -> TritonRunner:
    return TritonRunner(grpc, patience_s=2, progress=told)


def dying(_: Progress) -> Runner:
    """The end of the process, such as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def limited(opens: OpenRunner, told: Progress) -> Runner:
    """A runner in a process that can write no file of over 1,000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return opens(told)


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
    ("count", "gpus"),
    [
        pytest.param(None, 0, id="one for each CPU"),
        pytest.param(5, 0, id="more than CPUs", marks=pytest.mark.long),
        pytest.param(None, 0.5, id="half GPUs"),
    ],
)
def test_actors_make_the_data_set_of_the_local_engine(
    ray: int,
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
    ray: int, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    """What is there already is kept: of one that was made in part, only the rest is made."""
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "images" / "00003")
    (folder / "parts" / "00003.jsonl").unlink()
    (folder / "dataset.json").write_text(
        (folder / "dataset.json").read_text().replace('"complete":true', '"complete":false')
    )
    kept = folder / "images" / "00002" / "00000008.png"
    before = kept.stat().st_mtime_ns
    synthesize(plan, str(folder), runner, CHOICES, RayEngine(opens, 4))
    assert tree(folder) == tree(made)
    assert kept.stat().st_mtime_ns == before


def test_a_place_that_fsspec_reaches(
    ray: int, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    for name, engine in (("here", make_shards), ("there", RayEngine(opens))):
        synthesize(plan, f"file://{tmp_path / name}", runner, CHOICES, engine)
        assert tree(tmp_path / name) == tree(made)


def test_a_command_on_a_cluster_takes_relative_paths(
    ray: int, tiny_model: Path, made: Path, tmp_path: Path, cli: Cli
) -> None:
    shutil.copytree(tiny_model.parents[1], tmp_path / "model")
    plan = ["--per-layout", "4", "--shard-size", "4", "--format", ",".join(CHOICES.formats)]
    cli("synthesize", *EXAMPLES, *plan, "--model", "model", "--out", "set", "--engine", "ray", cwd=tmp_path, check=True)
    assert tree(tmp_path / "set") == tree(made)


# lost workers


def test_killed_actors_cost_no_image(
    ray: int, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path
) -> None:
    """SIGKILL of an actor at random moments, five times."""
    choice, kills = random.Random(0), list[int]()
    ended = threading.Event()

    def kill() -> None:
        while len(kills) < 5 and not ended.wait(choice.random()):
            if found := [pid for pid in workers(ray) if pid not in kills]:
                kills.append(choice.choice(found))
                os.kill(kills[-1], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(partial(slowly, opens), 2))
    finally:
        ended.set()
        killing.join()
    assert len(kills) == 5
    assert tree(tmp_path / "set") == tree(made)


@pytest.mark.long
def test_a_shard_that_kills_every_worker(ray: int, plan: Plan, runner: Runner, tmp_path: Path) -> None:
    """It ends in an error, and not never."""
    with pytest.raises(DeviceError, match=r"shard 0000\d: 8 of Ray's workers died while they made it"):
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(dying, 1))


# errors


@pytest.mark.parametrize(
    ("count", "gpus", "words"),
    [
        (3, 0.5, "--worker-gpus 0.5: Ray has 1 GPUs, which is room for 2 workers"),
        (None, 1.5, "--worker-gpus 1.5: give a share of one GPU, or a whole number"),
    ],
)
def test_gpus_that_ray_does_not_have(
    ray: int,
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


@pytest.mark.long
def test_a_model_that_actors_do_not_find(ray: int, plan: Plan, runner: Runner, made: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.onnx"
    with pytest.raises(ModelError, match=str(gone)):
        synthesize(plan, str(tmp_path / "set"), runner, CHOICES, RayEngine(partial(open_runner, "onnxrt", gone)))


@pytest.mark.long
def test_a_full_disk(ray: int, opens: OpenRunner, plan: Plan, runner: Runner, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(OutputError, match=r"File too large.*; free some space"):
        synthesize(plan, str(folder), runner, CHOICES, RayEngine(partial(limited, opens)))
    assert {path.name for path in folder.iterdir()} == {"dataset.json"}
    synthesize(plan, str(folder), runner, CHOICES, RayEngine(opens))
    assert tree(folder) == tree(made)


@pytest.mark.long
def test_machines_that_share_no_folder(ray: int, opens: OpenRunner, plan: Plan, runner: Runner) -> None:
    """As far as one machine can tell: a place in an actor's own memory."""
    with pytest.raises(OutputError, match=f"{SHARDS} shards were made and are not there; give --out a folder that all"):
        synthesize(plan, "memory://set", runner, CHOICES, RayEngine(opens))


@pytest.mark.long
def test_a_server_that_dies_in_mid_run(ray: int, tiny_repository: Path, plan: Plan, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    process, (_, grpc, _) = serving(tiny_repository)
    tritonserver, _ = family(process.pid)
    opens = partial(asking, grpc)

    def kill() -> None:
        for pid in (process.pid, tritonserver):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    try:
        with closing(opens(SILENT)) as own, pytest.raises(ServerError, match=grpc):
            engine = RayEngine(partial(slowly, opens), 1)
            synthesize(plan, str(folder), own, CHOICES, engine, Watched(lambda _: kill()))
    finally:
        kill()
        process.communicate()
    there = len(list((folder / "parts").iterdir()))
    assert 0 < there < SHARDS
    port = int(grpc.rpartition(":")[2])
    with running_server(tiny_repository, Exposure(ports=(0, port, 0))), closing(opens(SILENT)) as own:
        counts = synthesize(plan, str(folder), own, CHOICES, RayEngine(opens, 2))
    assert counts == {"images": 28}
    assert tree(folder).keys() == tree(made).keys()
