"""From a checkpoint to a model in a repository; where a step fails, nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import pytest
import torch
from click.testing import CliRunner, Result

from conftest import ROOT, fails_in_one_line, run_cli
from lostgan_export import parity, publish
from lostgan_export.commands.export import export
from lostgan_serve.errors import (
    CheckpointError,
    LostganError,
    OutputError,
    ParityError,
)
from lostgan_serve.manifest import METADATA_KEY, Manifest, Precision
from lostgan_serve.model_folder import MANIFEST_FILE, exported_models
from lostgan_serve.progress import Progress
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.vocabulary import BUNDLED_VOCABULARY, Vocabulary
from lostgan_train.networks.bundled import bundled_checkpoint
from lostgan_train.networks.checkpoint import load_checkpoint, random_checkpoint

FEW_SLOTS = ("--max-objects", 3)
BUNDLED = (128, 256, 512)
WEIGHTS = tuple(f"scenes-{resolution}.safetensors" for resolution in BUNDLED)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@dataclass(frozen=True)
class CommandExport:
    """An export by the command, in a process of its own. folder: the model's."""

    done: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="module")
def command_export(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandExport:
    repository = tmp_path_factory.mktemp("repository")
    options = ("--res", 64, "--checkpoint", small_checkpoint, "--repository", repository, *FEW_SLOTS)
    return CommandExport(run_cli("export", *options, check=True), repository / "lostgan_64")


@pytest.fixture
def graph_at_hand(command_export: CommandExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has torch's exporter return, in no time, what it made of the same checkpoint and options before. All else that
    an export does is done."""

    def again(*_: Any, **__: Any) -> torch.onnx.ONNXProgram:
        return torch.onnx.ONNXProgram(onnx_ir.load(command_export.folder / "1" / "model.onnx"), None)

    monkeypatch.setattr(torch.onnx, "export", again)


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """Have the kernel refuse to let a file grow further meanwhile, in the middle of a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_export_is_quiet(command_export: CommandExport) -> None:
    """Nothing but what the command itself says, whatever torch's exporter would like to add."""
    done = command_export.done
    assert "Warning" not in done.stderr
    assert "torchvision" not in done.stderr
    assert "untrained" in done.stderr
    assert done.stdout == f"{command_export.folder}\n"


def test_export_command(command_export: CommandExport) -> None:
    folder = command_export.folder
    version = folder / "1"
    runner = OnnxRunner(folder)
    beside = Manifest.from_json((version / MANIFEST_FILE).read_text(), "manifest")
    assert beside.onnx_sha256 == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    assert runner.manifest == beside.model_copy(update={"onnx_sha256": None})
    assert runner.manifest.slots == 3
    assert runner.manifest.weights == "untrained"
    assert runner.manifest.checkpoint_sha256
    assert runner.manifest.parity
    assert {"torch", "onnx", "onnxruntime", "lostgan-serve"} <= set(runner.manifest.tools)
    assert (folder / "config.pbtxt").is_file()
    assert METADATA_KEY in {item.key for item in onnx.load(version / "model.onnx").metadata_props}


@pytest.mark.usefixtures("graph_at_hand")
def test_an_export_adds_a_version_or_replaces_the_newest(tmp_path: Path, small_checkpoint: Path) -> None:
    arguments = ("--checkpoint", small_checkpoint, "--repository", tmp_path, *FEW_SLOTS)
    for options, versions in (((), ["1"]), (("--replace",), ["1"]), ((), ["1", "2"])):
        result = invoke(*arguments, *options)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / 'lostgan_64'}\n"
        assert sorted(path.name for path in (tmp_path / "lostgan_64").glob("[0-9]*")) == versions


@pytest.mark.slow
def test_mask_stages_are_in_the_graph_and_in_the_manifest(tmp_path: Path, tiny_checkpoint: Path) -> None:
    arguments = ("--res", 128, "--checkpoint", tiny_checkpoint, "--repository", tmp_path, "--mask-stages", 1)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    runner = OnnxRunner(tmp_path / "lostgan_128")
    assert runner.manifest.mask_stages == 1
    generator = load_checkpoint(tiny_checkpoint).generator
    parity.check(parity.measure(runner, generator))
    runner.manifest = runner.manifest.model_copy(update={"mask_stages": None})
    with pytest.raises(ParityError, match=r"masks by \d"):
        parity.check(parity.measure(runner, generator))


def test_a_mask_stage_that_does_not_exist(tmp_path: Path) -> None:
    weights = random_checkpoint("v2-128", Vocabulary.built_in("scenes"), seed=0, ch=2)
    for stage in (5, -1):
        words = f"^--mask-stages: v2-128 refines masks in 4 stages; give 0 to 4, not {stage}$"
        with pytest.raises(LostganError, match=words):
            publish(weights, tmp_path / "x", mask_stages=stage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("graph_at_hand")
@pytest.mark.parametrize("error", [ParityError("no"), KeyboardInterrupt()])
def test_failure_leaves_nothing(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    met = []

    def fail(*_: Any) -> None:
        met.append(error)
        raise error

    monkeypatch.setattr(parity, "check", fail)
    result = invoke("--checkpoint", small_checkpoint, "--repository", tmp_path / "repository", *FEW_SLOTS)
    assert result.exit_code != 0
    assert met == [error]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("graph_at_hand")
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, small_checkpoint: Path) -> None:
    with files_up_to(100_000):
        error = invoke("--checkpoint", small_checkpoint, "--repository", tmp_path / "repository", *FEW_SLOTS).exception
    assert isinstance(error, OutputError)
    assert "model.onnx: cannot write (File too large); free some space" in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_terminated_export_leaves_nothing(tmp_path: Path, small_checkpoint: Path) -> None:
    code = (
        "import os, signal, sys, torch; from lostgan_export.commands.export import export; "
        "torch.onnx.export = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM); export(sys.argv[1:])"
    )
    options = ["--res", "64", "--checkpoint", str(small_checkpoint), "--repository", str(tmp_path / "repository")]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("graph_at_hand")
def test_configurations_and_version_go_together(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be built leaves everything as it was; one that cannot be written is no secret."""
    arguments = ("--checkpoint", small_checkpoint, "--repository", tmp_path, *FEW_SLOTS)
    assert invoke(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in files_in(tmp_path)}

    def fail(*_: Any) -> None:
        raise OutputError("no")

    with monkeypatch.context() as patch:
        patch.setattr("lostgan_serve.triton.configuration._embedded", fail)
        assert isinstance(invoke(*arguments, "--max-batch", 2).exception, OutputError)
    assert {path: path.read_bytes() for path in files_in(tmp_path)} == before

    config = tmp_path / "lostgan_64" / "config.pbtxt"
    config.unlink()
    config.mkdir()
    error = invoke(*arguments).exception
    assert isinstance(error, OutputError)
    assert "config.pbtxt: cannot write" in str(error)
    assert "the new version is published, but" in str(error)
    assert "--replace" in str(error)
    config.rmdir()
    assert invoke(*arguments, "--replace").exit_code == 0
    assert config.read_bytes() == before[config]


def test_a_resolution_without_bundled_weights(tmp_path: Path) -> None:
    done = run_cli("export", "--res", 64, cwd=tmp_path)
    fails_in_one_line(
        done, ["no bundled weights of 64 px", "128, 256, 512", "lostgan-serve import", "--random-weights 0"]
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_must_be_named(tmp_path: Path) -> None:
    result = invoke("--repository", tmp_path / "x")
    assert result.exit_code == 2
    assert "--res for a bundled model, or --checkpoint" in result.output


@pytest.mark.usefixtures("graph_at_hand")
def test_a_checkpoint_tells_its_resolution_and_names_let_models_share_a_repository(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    for options in ((), ("--name", "coast-2.1")):
        result = invoke("--checkpoint", small_checkpoint, "--repository", tmp_path, *FEW_SLOTS, *options)
        assert result.exit_code == 0, result.output
    assert [model.name for model in exported_models(tmp_path)] == ["coast-2.1", "lostgan_64"]
    for name in ("coast-2.1", "lostgan_64"):
        for configuration in ("config.pbtxt", "configs/embedded.pbtxt", "configs/tensorrt.pbtxt"):
            assert f'name: "{name}"' in (tmp_path / name / configuration).read_text().splitlines()
        assert OnnxRunner(tmp_path / name).manifest.resolution == 64


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "-x", "two words", "café", "a" * 101, "line\nbreak"])
def test_a_name_that_triton_or_a_file_system_would_not_take(tmp_path: Path, name: str) -> None:
    weights = random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2)
    with pytest.raises(LostganError, match=re.escape(f"--name {name!r}: no name for a model")):
        publish(weights, tmp_path / "x", name)
    assert list(tmp_path.iterdir()) == []


class Told(Progress):
    """Collects the names of stages, and notes."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.stages.append(name)
        yield


@pytest.mark.slow
def test_publish_is_a_function(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It takes a generator that was never in a file, and prints nothing by itself."""
    weights, told = random_checkpoint("v1-64", Vocabulary.built_in("visual-genome"), seed=3, ch=2), Told()
    folder = publish(weights, tmp_path, "untrained", max_objects=5, max_batch=2, progress=told)
    manifest = OnnxRunner(folder.path).manifest
    assert (manifest.slots, manifest.capacity, manifest.max_batch, manifest.seed) == (6, 5, 2, 3)
    assert told.stages == ["fuse", "export to ONNX", "compare with PyTorch"]
    assert "untrained" in told.notes[0]
    assert capfd.readouterr() == ("", "")


def test_the_background_takes_a_slot(tmp_path: Path) -> None:
    weights = random_checkpoint("v1-64", Vocabulary.built_in("visual-genome"), seed=0, ch=2)
    for count in (0, 254):
        with pytest.raises(LostganError, match=rf"--max-objects {count}: .*background.*give 1 to 253"):
            publish(weights, tmp_path, max_objects=count)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_bundled_models_know_the_bundled_vocabulary() -> None:
    for resolution in BUNDLED:
        assert load_checkpoint(bundled_checkpoint(resolution)).vocabulary == Vocabulary.built_in(BUNDLED_VOCABULARY)


@pytest.mark.slow
def test_an_installed_package_brings_its_weights(tmp_path: Path) -> None:
    """A wheel of this tree, unpacked elsewhere, has the bundled weights at hand in any folder."""
    tree, site, elsewhere = (tmp_path / name for name in ("tree", "site", "elsewhere"))
    for folder in ("lostgan_serve", "train", "evaluate", "export", "checkpoints", "examples"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(tree)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options], check=True, capture_output=True, timeout=200)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        wheel.extractall(site)
    packed = [name for name in names if name.startswith("lostgan_checkpoints/")]
    assert sorted(packed) == [f"lostgan_checkpoints/{name}" for name in ("__init__.py", *WEIGHTS)]
    assert {"lostgan_serve/editor/page/main.js", "lostgan_examples/coast.json"} <= set(names)
    elsewhere.mkdir()
    code = (
        "from lostgan_train.networks.bundled import bundled_checkpoint as bundled\n"
        "from lostgan_train.networks.checkpoint import load_checkpoint\n"
        f"for path in map(bundled, {BUNDLED}): print(path, load_checkpoint(path).weights)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{site / 'lostgan_checkpoints' / name} trained" for name in WEIGHTS]


def test_checkpoint_of_another_resolution(tmp_path: Path, small_checkpoint: Path) -> None:
    result = invoke("--res", 256, "--checkpoint", small_checkpoint, "--repository", tmp_path)
    assert isinstance(result.exception, CheckpointError)
    assert "--res 64" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--vocabulary", "scenes"),
        ("--random-weights", 0, "--checkpoint", "some.safetensors"),
        ("--random-weights", -1),
        ("--max-objects", 0),
        ("--max-objects", 255),
        ("--max-batch", 0),
    ],
)
def test_options_that_do_not_go(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    assert invoke("--res", 64, "--repository", tmp_path, *arguments).exit_code == 2


def test_import_is_light() -> None:
    modules = "lostgan_export, lostgan_export.commands.export, lostgan_export.commands.bench"
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'onnx', 'onnxruntime'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_is_in_the_graph(precision: Precision, tmp_path: Path, small_checkpoint: Path) -> None:
    """Weights are of the type, inputs and outputs the contract's, and the image is close."""
    arguments = ("--res", 64, "--checkpoint", small_checkpoint, "--repository", tmp_path, "--precision", precision)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "lostgan_64" / "1"
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(), "it")
    assert manifest.precision == precision
    assert manifest.parity is not None
    assert manifest.parity.image_psnr_db is not None
    assert parity.PSNR_FLOORS_DB[precision] < manifest.parity.image_psnr_db < 95
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    graph = onnx.load(folder / "model.onnx").graph
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    weights = {value.name: value.data_type for value in graph.initializer}
    convolved = {weights[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    assert convolved == {low}
    floats = {value.type.tensor_type.elem_type for value in graph.input} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT}
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.UINT8}
