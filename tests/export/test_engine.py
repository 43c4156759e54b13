"""TensorRT engines: real ones, built by TensorRT-RTX without a GPU, and every reason for which one is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from conftest import ROOT, run_cli
from lostgan_export.commands.export import export
from lostgan_export.engine import RTX_CAPABILITIES, attach_timing_cache, build_engine
from lostgan_export.fused import fuse
from lostgan_export.onnx_export import export_onnx
from lostgan_serve.errors import DeviceError, MissingExtraError, ModelError
from lostgan_serve.manifest import Manifest, Precision
from lostgan_serve.model_folder import ENGINE_FILE, MANIFEST_FILE, PLAN_FILE, ModelVersion
from lostgan_serve.progress import Advance, Progress
from lostgan_serve.runners import tensorrt
from lostgan_serve.runners.tensorrt import Device, Engine, Target, TensorRTRunner
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint
from lostgan_train.networks.generator import WIDTHS

RTX: Target = "tensorrt-rtx"
GPU = Device("a GPU", "8.6")

PRECISIONS: dict[str, Precision] = {"v1-128": "fp16", "v2-128": "bf16", "v2-512": "fp16"}
LARGE = ("v2-256", "v2-512")
BUILDS = [
    pytest.param(variant, PRECISIONS.get(variant, "fp32"), marks=[pytest.mark.long] if variant in LARGE else [])
    for variant in WIDTHS
    if variant != "v1-64"
]
"""What is exported and built: each variant once, but for v1-64, which `published` holds, and each precision."""


def exported(variant: str, folder: Path, precision: Precision = "fp32") -> tuple[Path, Manifest]:
    """A tiny generator's ONNX file in `folder`, and its manifest."""
    checkpoint = random_checkpoint(variant, Vocabulary.built_in("scenes"), seed=0, ch=4)
    manifest = Manifest(
        variant=variant,
        resolution=checkpoint.generator.config.resolution,
        slots=4,
        max_batch=8,
        vocabulary=checkpoint.vocabulary,
        precision=precision,
        weights="untrained",
    )
    model = folder / "model.onnx"
    export_onnx(fuse(checkpoint.generator, precision), manifest, model)
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return model, manifest


def rejected(folder: Path) -> tuple[Path, Manifest]:
    """An ONNX file with an operation that no runtime has."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Frobnicate", ["z_img"], ["image"], name="frob_1")],
        "graph",
        [value("z_img", onnx.TensorProto.FLOAT, ["batch", 128])],
        [value("image", onnx.TensorProto.FLOAT, ["batch", 128])],
    )
    model = folder / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), model)
    return model, Manifest(
        variant="v1-64",
        resolution=64,
        slots=4,
        max_batch=8,
        vocabulary=Vocabulary.built_in("scenes"),
        weights="untrained",
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a v1-64 model and its engine, made by the command."""
    folder = tmp_path_factory.mktemp("engines")
    checkpoint = folder / "tiny.safetensors"
    save_checkpoint(checkpoint, random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2))
    options = ("--checkpoint", checkpoint, "--repository", folder / "repository", "--max-batch", 5, "--target", RTX)
    done = run_cli("export", "--res", 64, *options, check=True)
    assert f"build a {RTX} engine" in done.stderr
    assert "Warning" not in done.stderr
    return folder / "repository"


@pytest.fixture
def plan(published: Path, tmp_path: Path) -> Path:
    """A copy of that engine, with what stands beside it, to be spoilt."""
    for name in (PLAN_FILE, ENGINE_FILE, MANIFEST_FILE):
        (tmp_path / name).write_bytes((published / "lostgan_64" / "1" / name).read_bytes())
    return tmp_path / PLAN_FILE


class Counted(Progress):
    """Hands on how far a build is, from 0 to 1."""

    def __init__(self, told: Callable[[float], object]) -> None:
        self._told = told

    @contextmanager
    def count(self, name: str, total: float, done: float = 0) -> Iterator[Advance]:
        assert (name, total, done) == (f"build a {RTX} engine", 1.0, 0)
        yield self._advance

    def _advance(self, now: float, _: str) -> None:
        self._told(now)


def change(plan: Path, **fields: object) -> None:
    note = plan.with_name(ENGINE_FILE)
    note.write_text(json.dumps(json.loads(note.read_text()) | fields))


def refusal(plan: Path, device: Device | None = GPU) -> str:
    """The one line that says why an engine is not loaded."""
    with pytest.raises(ModelError) as caught:  # DeviceError is one
        Engine.load(plan).check(plan, tensorrt.bindings(RTX).__version__, device)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "precision"), BUILDS)
def test_tensorrt_takes_every_variant(tmp_path: Path, variant: str, precision: Precision) -> None:
    model, manifest = exported(variant, tmp_path, precision)
    told: list[float] = []
    engine = build_engine(ModelVersion(model), manifest, RTX, progress=Counted(told.append))
    plan = (tmp_path / PLAN_FILE).read_bytes()
    assert len(plan) > 100_000
    assert engine == Engine.load(tmp_path / PLAN_FILE)
    assert engine.plan_sha256 == hashlib.sha256(plan).hexdigest()
    assert engine.precision == precision
    assert told == sorted(told)
    assert 0 <= told[0] < 0.5 < told[-1] <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [ENGINE_FILE, MANIFEST_FILE, "model.onnx", PLAN_FILE]


def test_export_adds_an_engine_and_its_note(published: Path) -> None:
    version = published / "lostgan_64" / "1"
    engine = Engine.load(version / PLAN_FILE)
    assert engine.version == tensorrt.bindings(RTX).__version__
    assert engine.target == RTX
    assert engine.compute_capabilities == RTX_CAPABILITIES
    assert (engine.profile.min, engine.profile.opt, engine.profile.max) == (1, 2, 5)
    assert engine.onnx_sha256 == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    engine.check(version / PLAN_FILE, engine.version, GPU)
    assert (published / "lostgan_64" / "configs" / "tensorrt.pbtxt").is_file()
    assert sorted(path.name for path in (published / "lostgan_64").iterdir()) == [
        *("1", "config.pbtxt", "configs", "labels.txt", "warmup")
    ]


def test_an_operation_that_tensorrt_does_not_take(tmp_path: Path) -> None:
    model, manifest = rejected(tmp_path)
    with pytest.raises(ModelError, match=rf"^{model}: TensorRT \S+ does not take Frobnicate \(frob_1\): .+$") as caught:
        build_engine(ModelVersion(model), manifest, RTX)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    _, manifest = rejected(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"half")
    model = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=rf"^{model}: TensorRT \S+ (does not take|cannot build) .+: .+$"):
        build_engine(ModelVersion(model), manifest, RTX)


def test_engine_and_contract_must_agree(published: Path, tmp_path: Path) -> None:
    version = published / "lostgan_64" / "1"
    (tmp_path / "model.onnx").write_bytes((version / "model.onnx").read_bytes())
    manifest = Manifest.from_json((version / MANIFEST_FILE).read_bytes(), "test").model_copy(update={"slots": 3})
    with pytest.raises(ModelError, match=r"model\.onnx: TensorRT \S+ cannot build an engine of this file: .+$"):
        build_engine(ModelVersion(tmp_path / "model.onnx"), manifest, RTX)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_tensorrt_itself_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lostgan_export.engine.bindings", lambda _: tensorrt.bindings(RTX))
    monkeypatch.setattr("lostgan_export.engine.current_device", lambda _: None)
    model, manifest = rejected(tmp_path)
    with pytest.raises(DeviceError, match="none here; --target tensorrt-rtx builds without"):
        build_engine(ModelVersion(model), manifest, "tensorrt")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_stopped_leaves_the_onnx_model_alone(published: Path, tmp_path: Path, stop: int) -> None:
    (tmp_path / "model.onnx").write_bytes((published / "lostgan_64" / "1" / "model.onnx").read_bytes())
    code = (
        "import os, sys; from pathlib import Path; from test_engine import Counted; "
        "from lostgan_export.commands.export import cleaning_up_on_sigterm; "
        "from lostgan_export.engine import build_engine; from lostgan_serve.model_folder import ModelVersion\n"
        f"made, signals = ModelVersion(Path(sys.argv[1])), {[int(stop)] * 2}\n"
        "with cleaning_up_on_sigterm():\n"
        "    build_engine(ModelVersion(Path(sys.argv[2])), made.manifest(), 'tensorrt-rtx', "
        "progress=Counted(lambda done: done > 0.1 and signals and os.kill(os.getpid(), signals.pop())))"
    )
    arguments = [published / "lostgan_64" / "1" / "model.onnx", tmp_path / "model.onnx"]
    path = os.pathsep.join((str(ROOT / "tests"), str(ROOT / "tests" / "export")))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == (128 + stop if stop == signal.SIGTERM else -stop), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("content", [None, b"", b"not a timing cache"])
def test_a_timing_cache_is_attached_whatever_the_file_holds(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "timing.cache"
    if content is not None:
        file.write_bytes(content)
    trt = tensorrt.bindings(RTX)
    log = tensorrt.error_log(trt)
    config = trt.Builder(log).create_builder_config()
    attach_timing_cache(config, file)
    assert config.get_timing_cache() is not None


def test_an_engine_of_another_version(plan: Path) -> None:
    change(plan, version="1.0.0.1")
    assert "built by tensorrt-rtx 1.0.0.1, and" in refusal(plan)
    assert "lostgan-serve export --target tensorrt-rtx" in refusal(plan)


def test_an_engine_of_another_gpu(plan: Path) -> None:
    """TensorRT's are for one; TensorRT-RTX's for all that are as new as the oldest."""
    check = Engine.load(plan).check
    version = tensorrt.bindings(RTX).__version__
    for capability in ("8.0", "9.0", "12.1"):
        check(plan, version, Device("a GPU", capability))
    assert "capability 8.0, 8.6, 8.9, 12.0, and old has 7.5" in refusal(plan, Device("old", "7.5"))
    change(plan, target="tensorrt", compute_capabilities=["8.6"])
    assert "compute capability 8.6, and new has 8.9" in refusal(plan, Device("new", "8.9"))
    assert "needs an NVIDIA GPU" in refusal(plan, None)


def test_an_engine_that_is_not_the_one_that_was_built(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])
    assert "truncated, or not the engine" in refusal(plan)


@pytest.mark.parametrize("note", [b"", b"{}", b"[1]", b'{"target": "tensorrt-rtx"', b"\xff"])
def test_a_note_that_is_none(plan: Path, note: bytes) -> None:
    plan.with_name(ENGINE_FILE).write_bytes(note)
    assert f"{plan.with_name(ENGINE_FILE)}: not what export writes" in refusal(plan)


@pytest.mark.parametrize("name", [PLAN_FILE, ENGINE_FILE])
def test_a_file_that_is_missing(plan: Path, name: str) -> None:
    plan.with_name(name).unlink()
    assert f"{plan.with_name(name)}: no such file" in refusal(plan)


def test_runner_refuses_before_it_touches_a_gpu(published: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "current_device", lambda _: None)
    with pytest.raises(ModelError, match=r"lostgan_64/1/model\.plan: an engine needs an NVIDIA GPU"):
        TensorRTRunner(published / "lostgan_64")
    change(plan, version="1.0.0.1")
    with pytest.raises(ModelError, match=r"built by tensorrt-rtx 1\.0\.0\.1"):
        TensorRTRunner(plan)


@pytest.mark.parametrize(("target", "module"), [("tensorrt", "tensorrt"), (RTX, "tensorrt_rtx_bindings")])
def test_missing_package(target: Target, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything else is done."""
    monkeypatch.setitem(sys.modules, module, None)
    arguments = ["--res", "64", "--random-weights", "0", "--repository", str(tmp_path), "--target", target]
    error = CliRunner().invoke(export, arguments).exception
    assert isinstance(error, MissingExtraError)
    assert f"pip install 'lostgan-serve[{target}]'" in str(error)
    assert list(tmp_path.iterdir()) == []
