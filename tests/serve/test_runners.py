"""Runners in this process: ONNX Runtime and OpenVINO agree, and `--runner` chooses one and says why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conftest import EXAMPLES, fails_in_one_line
from lostgan_export import publish
from lostgan_export.onnx_export import set_manifest
from lostgan_serve import commands
from lostgan_serve.choices import RUNNER_VARIABLE
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, Tensors, empty_batch, output_specs, rows
from lostgan_serve.encoding import encode
from lostgan_serve.errors import ModelError
from lostgan_serve.layout import Layout
from lostgan_serve.progress import Progress
from lostgan_serve.runners import AUTO, RUNNERS, Runner, open_runner
from lostgan_serve.runners.cores import Cores, Infer, usable_cores
from lostgan_serve.runners.onnxrt import TELEMETRY_OFF, OnnxRunner, onnxruntime
from lostgan_serve.runners.openvino import OpenVinoRunner, computes_bf16
from lostgan_serve.runners.triton import TritonRunner
from lostgan_serve.triton.server import running_server
from lostgan_train.networks.checkpoint import load_checkpoint

pytest.importorskip("openvino")

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def onnxrt(tiny_model: Path) -> OnnxRunner:
    return OnnxRunner(tiny_model)


@pytest.fixture(scope="module")
def openvino(tiny_model: Path) -> OpenVinoRunner:
    return OpenVinoRunner(tiny_model)


@pytest.fixture(scope="module")
def tensors(onnxrt: OnnxRunner) -> Arrays:
    """The example layouts, all of which leave slots empty."""
    return encode([Layout.load(path) for path in EXAMPLES], onnxrt.manifest)


def assert_agree(found: Arrays, expected: Arrays) -> None:
    """Within a level of 255, and a share of 0.001 of the object map, whose ties may fall either way."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == np.uint8
        assert array.shape == expected[name].shape
        if name == "object_map":
            assert (array != expected[name]).mean() <= 0.001
        else:
            apart = np.abs(array.astype(int) - expected[name])
            assert apart.max() <= 1
            assert apart.mean() < 0.01


class Told(Progress):
    """Collects the notes that it is given in a list."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def note(self, line: str) -> None:
        self._lines.append(line)


# a batch on the cores of a CPU


@pytest.mark.parametrize("runner", [OnnxRunner, OpenVinoRunner])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_shared_out_among_cores_is_drawn_as_its_layouts_are(
    runner: Callable[..., Runner], threads: int, tiny_model: Path, tensors: Arrays
) -> None:
    few = runner(tiny_model, threads=threads)
    found = few.run(tensors, OUTPUT_NAMES)
    for row in range(len(EXAMPLES)):
        assert_agree(rows(found, row, row + 1), few.run(rows(tensors, row, row + 1), OUTPUT_NAMES))
    few.close()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_onnxruntime_never_computes_layouts_together_on_a_cpu(
    threads: int, tiny_model: Path, tensors: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix products of a batch add up in another order, so that a picture would depend on its neighbours."""
    sizes: list[int] = []

    class Watched(onnxruntime().InferenceSession):  # type: ignore[misc]
        def run(self, names: Any, inputs: Tensors, *others: Any) -> Any:
            sizes.append(len(inputs["labels"]))
            return super().run(names, inputs, *others)

    monkeypatch.setattr("onnxruntime.InferenceSession", Watched)
    runner = OnnxRunner(tiny_model, threads=threads)
    runner.run(tensors, OUTPUT_NAMES)
    runner.close()
    assert sizes == [1] * len(EXAMPLES)


def test_each_core_draws_layouts_of_its_own_and_all_draw_the_rest() -> None:
    met = Barrier(2)
    together: list[int] = []
    made: list[Infer] = []

    def draw_together(batch: Tensors, outputs: Sequence[str]) -> Arrays:
        together.extend(batch["labels"])
        return dict.fromkeys(outputs, batch["labels"])

    def draw_alone(layout: Tensors, outputs: Sequence[str]) -> Arrays:
        assert len(layout["labels"]) == 1
        met.wait(timeout=30)  # for the other core
        return dict.fromkeys(outputs, layout["labels"])

    def make_alone() -> Infer:
        made.append(draw_alone)
        return draw_alone

    cores = Cores(2, draw_together, make_alone)
    for batch, rest in ((1, [0]), (4, []), (5, [4])):
        together.clear()
        drawn = cores.run({"labels": np.arange(batch)}, ["image", "masks"])
        assert list(drawn) == ["image", "masks"]
        assert all(array.tolist() == list(range(batch)) for array in drawn.values())
        assert together == rest
        assert len(made) == (batch > 1)  # once, and not before it is needed
    cores.close()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("400000 100000", 4), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)],
)
def test_a_container_may_use_the_cores_of_its_quota(
    quota: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("lostgan_serve.runners.cores._QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert usable_cores() == expected
    (tmp_path / "cpu.max").unlink()
    assert usable_cores() == 8


# OpenVINO


def test_openvino_draws_what_onnxruntime_draws(openvino: OpenVinoRunner, onnxrt: OnnxRunner, tensors: Arrays) -> None:
    assert openvino.manifest == onnxrt.manifest
    found = openvino.run(tensors, OUTPUT_NAMES)
    assert_agree(found, onnxrt.run(tensors, OUTPUT_NAMES))
    for spec in output_specs(onnxrt.manifest.slots, onnxrt.manifest.resolution):
        assert found[spec.name].dtype == spec.dtype
        assert found[spec.name].shape == (len(EXAMPLES), *spec.dims)


def test_openvino_draws_a_batch_as_it_draws_each_layout(openvino: OpenVinoRunner, tensors: Arrays) -> None:
    batch = openvino.run(tensors, OUTPUT_NAMES)
    for row in range(len(EXAMPLES)):
        assert_agree(openvino.run(rows(tensors, row, row + 1), OUTPUT_NAMES), rows(batch, row, row + 1))
    assert_agree(openvino.run(tensors, OUTPUT_NAMES), batch)  # and results are the caller's own


def test_empty_slots_are_inert_in_openvino(openvino: OpenVinoRunner, tensors: Arrays) -> None:
    """The objects of a layout may stand in any slots: the empty ones among them change nothing."""
    layout = rows(tensors, 0, 1)
    used = int((layout["boxes"][0, :, 0] >= 0).sum())
    slots = openvino.manifest.slots
    assert used < slots
    moved = empty_batch(1, slots) | {"z_img": layout["z_img"]}
    for name in ("labels", "boxes", "z_obj"):
        moved[name][:, slots - used :] = layout[name][:, :used]
    before, after = (openvino.run(inputs, ("image", "masks")) for inputs in (layout, moved))
    assert np.abs(before["image"].astype(int) - after["image"]).max() <= 1
    assert not before["masks"][:, used:].any()
    assert not after["masks"][:, : slots - used].any()


def test_openvino_refuses_a_file_whose_manifest_is_of_another_model(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(tiny_model.read_bytes())
    set_manifest(copy, OnnxRunner(tiny_model).manifest.model_copy(update={"slots": 5}))
    with pytest.raises(ModelError, match=r"model\.onnx: OpenVINO cannot run it; export it again"):
        OpenVinoRunner(copy)


def test_openvino_computes_the_outputs_that_are_wanted(openvino: OpenVinoRunner, tensors: Arrays) -> None:
    assert list(openvino.run(rows(tensors, 0, 1), ["object_map"])) == ["object_map"]


@pytest.fixture(scope="module")
def bf16_model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The folder of the tiny model exported in bf16."""
    told: list[str] = []
    checkpoint, repository = load_checkpoint(tiny_checkpoint), tmp_path_factory.mktemp("bf16")
    folder = publish(checkpoint, repository, precision="bf16", progress=Told(told))
    assert ("in OpenVINO" if computes_bf16() else "in PyTorch") in "\n".join(told)
    return folder.path


def test_bf16_is_near_fp32(onnxrt: OnnxRunner, bf16_model: Path, tensors: Arrays) -> None:
    found, expected = OpenVinoRunner(bf16_model).run(tensors, OUTPUT_NAMES), onnxrt.run(tensors, OUTPUT_NAMES)
    error = ((found["image"].astype(float) - expected["image"]) ** 2).mean()
    assert 0 < error < 255**2 * 10**-4  # another precision, and a PSNR above 40 dB
    assert (found["object_map"] != expected["object_map"]).mean() < 0.005
    assert np.abs(found["masks"].astype(int) - expected["masks"]).max() <= 4  # geometry stays in fp32


def test_a_bf16_model_is_for_openvino(bf16_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert isinstance(open_runner(AUTO, bf16_model, Told(told)), OpenVinoRunner)
    assert told == ["runner: openvino (the model is in bf16, which ONNX Runtime does not compute on CPUs)"]
    hide(monkeypatch, "openvino")
    with pytest.raises(
        ModelError, match=r"model\.onnx: ONNX Runtime cannot compute it here .*--runner openvino"
    ) as caught:
        open_runner(AUTO, bf16_model, Told(told))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [OnnxRunner, OpenVinoRunner])
def test_tensors_and_files_that_do_not_fit_are_one_line(
    make: Callable[[Path], Runner], tiny_model: Path, tmp_path: Path
) -> None:
    runner = make(tiny_model)
    slots = runner.manifest.slots
    fits = empty_batch(2, slots)
    bad = [empty_batch(1, slots + 1), *({**fits, name: fits[name].astype(np.float64)} for name in INPUT_NAMES)]
    for tensors in [*bad, {**fits, "z_img": fits["z_img"][:1]}]:
        with pytest.raises(ModelError, match=r"model\.onnx: it cannot generate these layouts \(.*\)$") as caught:
            runner.run(tensors, OUTPUT_NAMES)
        assert "\n" not in str(caught.value)
    assert runner.run(fits, ("image",))["image"].shape[0] == 2

    cut, foreign = tmp_path / "cut.onnx", tmp_path / "foreign.onnx"
    cut.write_bytes(tiny_model.read_bytes()[:50_000])
    foreign.write_bytes(tiny_model.read_bytes().replace(b"lostgan_serve.manifest", b"somebody_else.manifest"))
    for model, words in (
        (cut, "cut.onnx: truncated or not an ONNX model; export it again"),
        (foreign, "foreign.onnx: not a lostgan-serve model"),
        (tmp_path / "none.onnx", "none.onnx: no such model; make one with: lostgan-serve export"),
        (tmp_path, "no exported version in this folder"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            make(model)
        assert "\n" not in str(caught.value)


# ONNX Runtime


@pytest.mark.slow
def test_a_path_that_onnxruntime_cannot_take(cli: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"Mod\xe8les")
    folder.mkdir()
    shutil.copy(tiny_model, folder)
    done = cli("generate", EXAMPLES[0], "--model", folder / "model.onnx", "--out", tmp_path)
    fails_in_one_line(done, ["model.onnx: ONNX Runtime takes no path that is not UTF-8", "rename"])


def test_execution_providers(tiny_model: Path) -> None:
    assert OnnxRunner(tiny_model, providers=["CPUExecutionProvider"]).provider == "CPUExecutionProvider"
    with pytest.raises(ModelError, match=r"has no NoSuchProvider; it has .*CPUExecutionProvider"):
        OnnxRunner(tiny_model, providers=["NoSuchProvider"])


@pytest.mark.parametrize("given", [None, "0"])
def test_onnxruntime_is_imported_without_telemetry_unless_the_user_says_otherwise(
    tiny_model: Path, given: str | None
) -> None:
    """The variable is read by native code while the package is imported: it must stand in the environment by then."""
    code = (
        "import ctypes, sys; from importlib.abc import MetaPathFinder\n"
        "getenv = ctypes.CDLL(None).getenv; getenv.restype = ctypes.c_char_p\n"
        "class Watch(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': print(getenv(b'ORT_DISABLE_TELEMETRY').decode())\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from lostgan_serve.runners import open_runner; open_runner('onnxrt', sys.argv[1])"
    )
    environment = {name: value for name, value in os.environ.items() if name != TELEMETRY_OFF[0]}
    environment |= {} if given is None else {TELEMETRY_OFF[0]: given}
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_model], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [given or "1"]


# The choice


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let packages look as if they were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in packages else find(name, *rest))


def test_auto_says_what_it_chose_and_why(
    tiny_model: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    assert isinstance(open_runner(AUTO, tiny_repository / "lostgan_128", Told(told)), OnnxRunner)
    hide(monkeypatch, "openvino")
    assert isinstance(open_runner(AUTO, tiny_model, Told(told)), OnnxRunner)
    hide(monkeypatch, "onnxruntime")
    assert isinstance(open_runner(AUTO, tiny_model, Told(told)), OnnxRunner)  # neither: what it needs is told best
    monkeypatch.undo()
    hide(monkeypatch, "onnxruntime")
    assert isinstance(open_runner(AUTO, tiny_model, Told(told)), OpenVinoRunner)
    assert [line.partition(" (")[0] for line in told] == ["runner: onnxrt"] * 3 + ["runner: openvino"]
    assert told[-1] == "runner: openvino (onnxruntime is not installed)"


def test_an_engine_that_cannot_run_here_is_no_obstacle(tiny_model: Path, tmp_path: Path) -> None:
    """Nor is one that somebody else built."""
    version = tmp_path / "lostgan_128" / "1"
    version.mkdir(parents=True)
    for name in ("model.onnx", "manifest.json"):
        shutil.copy(tiny_model.with_name(name), version)
    (version / "model.plan").write_bytes(b"no engine")
    told: list[str] = []
    assert isinstance(open_runner(AUTO, version.parent, Told(told)), OnnxRunner)
    (line,) = told
    assert line.startswith("runner: onnxrt (")
    assert "; not TensorRT: " in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_generate_takes_a_runner(name: str, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["generate", str(EXAMPLES[0]), "--model", str(tiny_model), "--out", str(tmp_path / name)]
    done = CliRunner().invoke(commands.main, [*arguments, "--runner", name])
    assert done.exit_code == 0, done.output
    assert "runner:" not in done.stderr
    assert list((tmp_path / name).glob("*.png"))
    by_variable = CliRunner().invoke(commands.main, arguments, env={RUNNER_VARIABLE: name})
    assert by_variable.exit_code == 0
    assert "runner:" not in by_variable.stderr
    assert "runner: onnxrt (" in CliRunner().invoke(commands.main, arguments).stderr


def test_a_runner_that_is_not_there_is_one_line(cli: Any, tiny_repository: Path, tmp_path: Path) -> None:
    for name, words in (("nix", ["runner 'nix'", *RUNNERS]), ("tensorrt", ["model.plan", "export --target tensorrt"])):
        model = tiny_repository / "lostgan_128"
        done = cli("generate", EXAMPLES[0], "--model", model, "--out", tmp_path / "out", "--runner", name)
        fails_in_one_line(done, words)
    assert not (tmp_path / "out").exists()


# Triton


def test_triton_draws_with_openvino(
    tiny_repository: Path, openvino: OpenVinoRunner, tensors: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its stub, which has a Python environment of its own; the very arrays, not ONNX Runtime's."""
    monkeypatch.setenv(RUNNER_VARIABLE, "openvino")
    served_alike(tiny_repository, openvino, tensors)


def test_triton_draws_a_bf16_model(bf16_model: Path, tensors: Arrays) -> None:
    """Without being told with what."""
    served_alike(bf16_model.parent, OpenVinoRunner(bf16_model), tensors)


def served_alike(repository: Path, runner: Runner, tensors: Arrays) -> None:
    with running_server(repository) as endpoints:
        remote = TritonRunner(endpoints.grpc)
        found = remote.run(tensors, OUTPUT_NAMES)
        remote.close()
    for name, array in runner.run(tensors, OUTPUT_NAMES).items():
        np.testing.assert_array_equal(found[name], array)
