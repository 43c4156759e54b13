"""Export to ONNX: what the file holds, that it paints what PyTorch paints, and that a failure leaves nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from conftest import ROOT, fails_in_one_line, run_cli
from lostgan_export import cli, parity
from lostgan_export.bench import formulations as formulations
from lostgan_export.bench.arithmetic import multiply_adds
from lostgan_export.bench.served import ClosedLoop
from lostgan_export.fused import fuse
from lostgan_export.onnx_export import export_onnx, set_manifest
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, empty_batch, input_specs, output_specs
from lostgan_serve.encoding import encode
from lostgan_serve.errors import CheckpointError, LostganError, ModelError, OutputError, ParityError, ServerError
from lostgan_serve.manifest import METADATA_KEY, Manifest, Parity, Precision
from lostgan_serve.model_folder import MANIFEST_FILE
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.triton import configuration
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, random_checkpoint, save_checkpoint

SLOTS = 4


def tiny(variant: str = "v2-128", vocabulary: str = "scenes", slots: int = SLOTS) -> tuple[Checkpoint, Manifest]:
    checkpoint = random_checkpoint(variant, Vocabulary.built_in(vocabulary), seed=0, ch=2)
    manifest = Manifest(
        variant=variant,
        resolution=checkpoint.generator.config.resolution,
        slots=slots,
        max_batch=8,
        vocabulary=checkpoint.vocabulary,
        weights="untrained",
    )
    return checkpoint, manifest


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v2-128 generator with the scenes vocabulary: every kind of layer there is."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    checkpoint, manifest = tiny()
    export_onnx(fuse(checkpoint.generator), manifest, path)
    return path


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.export, [str(argument) for argument in arguments])


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_equals_torch_at_any_batch(exported: Path, batch: int) -> None:
    checkpoint, manifest = tiny()
    layouts = (parity.sample_layouts(manifest) * 2)[:batch]
    tensors = encode(layouts, manifest)
    with torch.no_grad():
        expected = fuse(checkpoint.generator)(*(torch.from_numpy(tensors[name]) for name in INPUT_NAMES))
    outputs = OnnxRunner(exported).run(tensors, OUTPUT_NAMES)
    for name, theirs in zip(OUTPUT_NAMES, expected, strict=True):
        difference = np.abs(outputs[name].astype(np.int16) - theirs.numpy())
        assert (difference > 0).mean() < 0.002, name
        assert name == "object_map" or difference.max() <= 1, name


def test_graph(exported: Path) -> None:
    """The contract's tensors, a dynamic batch and nothing else dynamic, no op that runtimes find hard."""
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import if opset.domain == ""] == [("", 18)]
    specs = (*input_specs(SLOTS), *output_specs(SLOTS, 128))
    for value, spec in zip((*model.graph.input, *model.graph.output), specs, strict=True):
        batch, *dims = value.type.tensor_type.shape.dim
        assert value.name == spec.name
        assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == spec.dtype
        assert batch.dim_param
        assert tuple(dim.dim_value for dim in dims) == spec.dims
    ops = {node.op_type for node in model.graph.node}
    assert ops.isdisjoint({"GridSample", "GatherND", "GatherElements", "ScatterND", "NonZero", "Loop", "If"})
    assert sum(node.op_type == "Shape" for node in model.graph.node) <= 1  # of the batch, for the constant slot
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_file_tells_nothing_of_the_machine(exported: Path) -> None:
    assert str(ROOT).encode() not in exported.read_bytes()


def test_manifest_in_the_file(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(exported.read_bytes())
    _, manifest = tiny()
    assert OnnxRunner(copy).manifest == manifest
    changed = manifest.model_copy(update={"max_batch": 3})
    set_manifest(copy, changed)
    assert OnnxRunner(copy).manifest == changed
    assert len(onnx.load(copy).metadata_props) == 1


def test_export_is_quiet(tmp_path: Path, checkpoint_file: Path) -> None:
    """Nothing but what the command itself says, whatever torch's exporter would like to add."""
    code = "import sys; from lostgan_export.cli import export; export(sys.argv[1:])"
    options = ["--res", "64", "--checkpoint", str(checkpoint_file), "--repository", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "torchvision" not in done.stderr
    assert "untrained" in done.stdout


@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
@pytest.mark.parametrize("slots", [1, 2, 12, 254])
def test_sample_layouts_fit(vocabulary: str, slots: int) -> None:
    _, manifest = tiny("v1-64", vocabulary, slots)
    layouts = parity.sample_layouts(manifest)
    tensors = encode(layouts, manifest)
    assert (tensors["boxes"][:, :, 2] > 0).all()
    assert max(len(layout.objects) for layout in layouts) == manifest.capacity


def test_parity_of_a_faithful_model(exported: Path) -> None:
    checkpoint, _ = tiny()
    measured = parity.measure(OnnxRunner(exported), checkpoint.generator)
    assert measured.layouts == len(parity.sample_layouts(tiny()[1]))
    assert measured.image_max <= 1
    assert measured.image_mean < 0.001
    parity.check(measured)


def test_parity_of_another_model(exported: Path) -> None:
    checkpoint, _ = tiny()
    bias = checkpoint.generator.to_rgb.bias
    assert bias is not None
    bias.data += 0.02
    measured = parity.measure(OnnxRunner(exported), checkpoint.generator)
    with pytest.raises(ParityError, match=r"image by \d"):
        parity.check(measured)


@pytest.mark.parametrize("output", ["image_max", "masks_max", "object_map_differs"])
def test_each_output_is_checked(output: str) -> None:
    good = Parity(layouts=1, image_max=1, image_mean=0, masks_max=1, masks_mean=0, object_map_differs=0)
    parity.check(good)
    with pytest.raises(ParityError):
        parity.check(good.model_copy(update={output: 2}))


def test_reference_that_is_not_finite(exported: Path) -> None:
    checkpoint, _ = tiny()
    with torch.no_grad():
        checkpoint.generator.fc.bias[0] = torch.nan
    with pytest.raises(ParityError, match="not finite"):
        parity.measure(OnnxRunner(exported), checkpoint.generator)


def test_export_command(tmp_path: Path, checkpoint_file: Path) -> None:
    arguments = ("--res", 64, "--checkpoint", checkpoint_file, "--repository", tmp_path, "--max-objects", 3)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.strip().endswith(str(tmp_path / "lostgan_64"))
    version = tmp_path / "lostgan_64" / "1"
    runner = OnnxRunner(tmp_path / "lostgan_64")
    beside = Manifest.from_json((version / MANIFEST_FILE).read_text(), "manifest")
    assert beside.onnx_sha256 == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    assert runner.manifest == beside.model_copy(update={"onnx_sha256": None})
    assert runner.manifest.slots == 3
    assert runner.manifest.weights == "untrained"
    assert runner.manifest.checkpoint_sha256
    assert runner.manifest.parity
    assert {"torch", "onnx", "onnxruntime", "lostgan-serve"} <= set(runner.manifest.tools)
    assert (tmp_path / "lostgan_64" / "config.pbtxt").is_file()
    assert METADATA_KEY in {item.key for item in onnx.load(version / "model.onnx").metadata_props}

    assert invoke(*arguments, "--replace").exit_code == 0
    assert not (tmp_path / "lostgan_64" / "2").exists()


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


def test_a_mask_stage_that_does_not_exist(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for stage in (5, -1):
        arguments = ("--checkpoint", tiny_checkpoint, "--repository", tmp_path / "x", "--mask-stages", stage)
        fails_in_one_line(
            run_cli("export", "--res", 128, *arguments),
            [f"--mask-stages: v2-128 refines masks in 4 stages; give 0 to 4, not {stage}"],
        )
    assert not (tmp_path / "x").exists()


def test_manifest_of_an_older_version_refines_masks_in_all_stages() -> None:
    _, manifest = tiny()
    older = json.loads(manifest.to_json())
    del older["mask_stages"]
    assert Manifest.from_json(json.dumps(older), "older").mask_stages is None


@pytest.mark.parametrize("error", [ParityError("no"), KeyboardInterrupt()])
def test_failure_leaves_nothing(
    tmp_path: Path, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(parity, "check", fail)
    result = invoke("--res", 64, "--checkpoint", checkpoint_file, "--repository", tmp_path / "repository")
    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_export_leaves_nothing(tmp_path: Path, checkpoint_file: Path) -> None:
    code = (
        "import os, signal, sys; from lostgan_export import cli, parity; "
        "parity.check = lambda *_: os.kill(os.getpid(), signal.SIGTERM); cli.export(sys.argv[1:])"
    )
    options = ["--res", "64", "--checkpoint", str(checkpoint_file), "--repository", str(tmp_path / "repository")]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_configurations_and_version_go_together(
    tmp_path: Path, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be built leaves everything as it was; one that cannot be written is no secret."""
    arguments = ("--res", 64, "--checkpoint", checkpoint_file, "--repository", tmp_path)
    assert invoke(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in files_in(tmp_path)}

    def fail(*_: Any) -> None:
        raise OutputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(configuration, "_embedded", fail)
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


def test_tensors_that_do_not_fit_are_one_line(exported: Path) -> None:
    runner = OnnxRunner(exported)
    with pytest.raises(ModelError, match=r"model\.onnx: it cannot generate these layouts \(.*\)$") as caught:
        runner.run(empty_batch(1, SLOTS + 1), OUTPUT_NAMES)
    assert "\n" not in str(caught.value)


def test_a_wrong_label_does_not_fail_its_batch(exported: Path) -> None:
    _, manifest = tiny()
    tensors = encode(parity.sample_layouts(manifest)[:2], manifest)
    runner = OnnxRunner(exported)
    expected = runner.run(tensors, ("image",))["image"]
    tensors["labels"][1, :2] = -1, 10**9
    outputs = runner.run(tensors, ("image",))["image"]
    np.testing.assert_array_equal(outputs[0], expected[0])


def test_a_repository_given_as_a_model_names_its_models(tmp_path: Path, exported: Path) -> None:
    for name in ("lostgan_128", "lostgan_256"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=rf"not a model.*{tmp_path}/lostgan_128, {tmp_path}/lostgan_256$"):
        OnnxRunner(tmp_path)


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://localhost"])
def test_bench_wants_the_grpc_address(url: str) -> None:
    error = CliRunner().invoke(cli.bench, ["--url", url]).exception
    assert isinstance(error, LostganError)
    assert "bench measures gRPC" in str(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rate", "6"], "--rate go with --url"),
        (["--concurrency", "4"], "--rate go with --url"),
        (["--url", "localhost:1", "--rate", "6", "--concurrency", "4"], "exclude each other"),
        (["--url", "localhost:1", "--plot", "bench.png"], "do not go with --url"),
        (["--url", "localhost:1", "--checkpoint", "a.safetensors"], "do not go with --url"),
    ],
)
def test_bench_refuses_options_that_would_do_nothing(options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.bench, options)
    assert result.exit_code == 2
    assert words in result.output


def test_a_closed_loop_is_as_fast_as_its_server() -> None:
    """One that draws a layout at a time, in 5 ms at least."""
    server = threading.Lock()

    def ask(_: int) -> None:
        with server:
            time.sleep(0.005)

    images_per_s, latencies = ClosedLoop(clients=4, requests_each=3).run(ask)
    assert 0 < images_per_s <= 200
    assert len(latencies) == 4  # of 12: the first and the last four found clients idle


def test_bench_takes_a_grpc_url(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "lostgan_128" / "1").mkdir(parents=True)
    (tmp_path / "lostgan_128" / "1" / "model.onnx").write_bytes(exported.read_bytes())
    arguments = ["--res", "128", "--repository", str(tmp_path), "--url", "grpc://localhost:1"]
    error = CliRunner().invoke(cli.bench, arguments).exception
    assert isinstance(error, ServerError)
    assert "grpc://localhost:1: " in str(error)


def test_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--res", 512)
    assert isinstance(result.exception, CheckpointError)
    message = str(result.exception)
    assert "lostgan-serve import" in message
    assert "--random-weights 0" in message
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_resolution(tmp_path: Path, checkpoint_file: Path) -> None:
    result = invoke("--res", 256, "--checkpoint", checkpoint_file, "--repository", tmp_path)
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


def test_slots() -> None:
    with_background, without = Vocabulary.built_in("visual-genome"), Vocabulary.built_in("coco-stuff")
    assert cli._slots(with_background, None) == 31
    assert cli._slots(with_background, 5) == 6
    assert cli._slots(without, 5) == 5
    with pytest.raises(LostganError, match="--max-objects 253"):
        cli._slots(with_background, 254)


def test_bench_command(tmp_path: Path, checkpoint_file: Path) -> None:
    """Without a server: every candidate at every batch, in a table and in a file."""
    report, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["--res", "64", "--checkpoint", checkpoint_file, "--batch", "1,2", "--rounds", "1", "--json", report]
    arguments += ["--plot", plot]
    result = CliRunner().invoke(cli.bench, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    content = json.loads(report.read_text())
    assert content["machine"]["cores"] >= 1
    measured = {(row["candidate"], row["batch"]) for row in content["in_process"]}
    names = (formulations.REFERENCE_TORCH, formulations.REFERENCE_ONNX, formulations.OURS)
    assert measured == {(name, n) for name in names for n in (1, 2)}
    shares = {row["candidate"]: row["share_of_peak"] for row in content["in_process"]}
    assert shares[formulations.REFERENCE_TORCH] is None
    assert 0 < shares[formulations.OURS] < 1.2
    assert Image.open(plot).width > 500
    assert all(row["seconds_per_image"] > 0 for row in content["in_process"])
    assert formulations.OURS in result.output


def test_import_is_light() -> None:
    code = "import sys, lostgan_export.cli; sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_training_step_is_compared_with_the_paper_s(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    done = run_cli(
        *("bench-training", "--variant", "v1-64", "--ch", 2, "--batch", 2, "--rounds", 2, "--json", file), check=True
    )
    plain, ours = json.loads(file.read_text())["step"]
    assert plain["speedup"] == 1
    assert ours["speedup"] == pytest.approx(plain["seconds"] / ours["seconds"])
    assert min(plain["peak_mib"], ours["peak_mib"]) > 50
    assert len(ours["rounds"]) == 2
    assert done.stdout.splitlines()[0] == "v1-64, ch 2, fp32"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_is_in_the_graph(precision: Precision, tmp_path: Path, checkpoint_file: Path) -> None:
    """Weights are of the type, inputs and outputs the contract's, and the image is close."""
    arguments = ("--res", 64, "--checkpoint", checkpoint_file, "--repository", tmp_path, "--precision", precision)
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


def test_a_low_precision_must_reach_its_floor() -> None:
    good = Parity(
        layouts=1, image_max=9, image_mean=1, image_psnr_db=45, masks_max=5, masks_mean=0, object_map_differs=0
    )
    parity.check(good, "bf16")
    with pytest.raises(ParityError, match=r"PSNR of 45\.0 dB \(floor 50 dB\)"):
        parity.check(good, "fp16")
    with pytest.raises(ParityError, match="image by 9"):
        parity.check(good)
    with pytest.raises(ParityError, match=r"object_map by 0\.01"):
        parity.check(good.model_copy(update={"object_map_differs": 0.01}), "bf16")


def test_multiply_adds_are_counted(tmp_path: Path) -> None:
    """A 3x3 convolution of 2 to 4 maps of 8 x 8, and its maps times a matrix."""
    conv, matrix = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Linear(8, 5, bias=False)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        torch.nn.Sequential(conv, matrix).eval(), (torch.zeros(2, 2, 8, 8),), dynamo=True, dynamic_shapes=[{0: batch}]
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    assert multiply_adds(tmp_path / "model.onnx", batch=3) == 3 * (4 * 64 * 2 * 9 + 4 * 8 * 8 * 5)
