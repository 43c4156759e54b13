"""What several test files need: golden data, small models and a command line that runs in a process of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lostgan_serve.files import new_folder
from lostgan_serve.manifest import Manifest
from lostgan_serve.vocabulary import Vocabulary

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from browser import EditorPage, EditorServer
    from lostgan_serve.runners import Runner
    from lostgan_train.data import Source

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))

SLOW_FIXTURES = frozenset(
    ("tiny_repository", "command_export", "exported", "published", "bf16_model", "clone", "classifier", "finished")
)
"""Fixtures that export a model, build an engine or train for long: every test that uses one is slow."""

Arrays = dict[str, np.ndarray[Any, Any]]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and not SLOW_FIXTURES.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills: once for all of pytest-xdist's processes, of which the others wait meanwhile."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with new_folder(folder) as fresh:
                make(fresh)
    return folder


@pytest.fixture(scope="session")
def official_shapes() -> dict[str, dict[str, list[int]]]:
    """Every key and shape of eight official state dicts."""
    shapes: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "keys.json").read_text())
    return shapes


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Arrays]:
    """Inputs and outputs of an original network, by its name in tests/golden."""

    def load(name: str) -> Arrays:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained v2-128 generator with ch 4 and the scenes vocabulary."""
    from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, random_checkpoint("v2-128", Vocabulary.built_in("scenes"), seed=0, ch=4))
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest generator there is: untrained, v1-64 with ch 2, the scenes vocabulary."""
    from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(path, random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2))
    return path


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A model repository with that generator, exported by the command: lostgan_128, 12 slots, batches up to 8."""

    def export(repository: Path) -> None:
        run_cli("export", "--res", "128", "--checkpoint", tiny_checkpoint, "--repository", repository, check=True)

    return made_once(tmp_path_factory, "repository", export)


@pytest.fixture(scope="session")
def tiny_model(tiny_repository: Path) -> Path:
    """The model.onnx in that repository."""
    return tiny_repository / "lostgan_128" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def synthesizer(tiny_model: Path) -> Iterator[Runner]:
    """A runner of that model, with one thread."""
    from lostgan_serve.runners import open_runner

    opened = open_runner("onnxrt", tiny_model, threads=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def made(synthesizer: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, see `synthesizing.make_set`."""
    from synthesizing import make_set

    return make_set(tmp_path_factory.mktemp("synthesized") / "set", synthesizer)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 drawn scenes of 64 px, 22 of which have neither too few nor too many objects."""
    from lostgan_train.synthetic.dataset import write_dataset

    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, 24, 64, workers=1)
    return folder


@pytest.fixture(scope="session")
def source(scenes: Path) -> Source:
    from lostgan_train.data import open_data

    return open_data(scenes)


@pytest.fixture
def tiny_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Faster R-CNN of a few thousand weights, batch norm included, that sees images of 64 px."""
    from torch import nn
    from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    from lostgan_train.semi_supervised import detector as detectors

    def build(_: str, labels: int) -> nn.Module:
        backbone = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU())
        backbone.out_channels = 8  # type: ignore[assignment]
        network: nn.Module = FasterRCNN(
            backbone,
            min_size=64,
            max_size=64,
            rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
            box_head=TwoMLPHead(8 * 9, 16),
            box_predictor=FastRCNNPredictor(16, labels),
        )
        return network

    monkeypatch.setattr(detectors, "SIDE_PX", 64)
    monkeypatch.setattr(detectors, "build_detector", build)


@pytest.fixture(scope="module")
def editor_server(tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path) -> Iterator[EditorServer]:
    """The editor in front of that model."""
    from browser import EditorServer

    server = EditorServer(tiny_repository / "lostgan_128", tmp_path_factory.mktemp("state"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from lostgan_export.bench.editor import opened_browser

    with opened_browser() as browser:
        yield browser


@pytest.fixture
def editor(browser: Browser, editor_server: EditorServer) -> Iterator[EditorPage]:
    """The editor's page in a browser with nothing in its storage. In the end it may have had no error."""
    from browser import EditorPage

    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = EditorPage(context.new_page(), editor_server.url)
        yield page
        assert not page.errors
        assert page.most_in_flight <= 1


def run_cli(
    *arguments: object,
    stdin: str | None = None,
    check: bool = False,
    cwd: Path | None = None,
    file_limit_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `lostgan-serve ARGUMENTS` as a user would. file_limit_bytes: the most that a file may grow to."""
    command = [str(Path(sys.executable).parent / "lostgan-serve"), *map(str, arguments)]
    if file_limit_bytes is not None:
        command = ["prlimit", f"--fsize={file_limit_bytes}", *command]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, cwd=cwd, env=os.environ)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def fails_in_one_line(done: subprocess.CompletedProcess[str], words: Sequence[object], code: int = 2) -> None:
    """Assert that a command ended with one clear line that holds all of `words`, and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    for word in words:
        assert str(word) in message, message


@contextmanager
def at_once() -> Iterator[None]:
    """Assert that a block takes under 10 s of CPU time, tenfold what refusals take: a busy machine may be that slow."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 10


def tree(folder: Path) -> dict[str, str]:
    """The hash of each file in a folder, by its path there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def cli() -> Cli:
    return run_cli


def a_manifest(vocabulary: str = "visual-genome", max_batch: int = 8, variant: str = "v2-512") -> Manifest:
    """Of an untrained generator that nobody made."""
    labels = Vocabulary.built_in(vocabulary)
    return Manifest(
        variant=variant,
        resolution=int(variant.partition("-")[2]),
        slots=labels.slots,
        max_batch=max_batch,
        vocabulary=labels,
        weights="untrained",
    )
