"""The Triton model repository: configurations that say what the contract says, and versions that are whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from conftest import ROOT, a_manifest
from lostgan_serve.contract import TensorSpec, input_specs, output_specs
from lostgan_serve.errors import ModelError, OutputError
from lostgan_serve.manifest import Manifest, Precision
from lostgan_serve.triton.repository import exported_models, model_name, new_version, write_configurations
from lostgan_serve.vocabulary import BUILT_IN_NAMES

CONFIGURATIONS = ("config.pbtxt", "configs/embedded.pbtxt", "configs/tensorrt.pbtxt")


def parsed(path: Path) -> pb.ModelConfig:
    return text_format.Parse(path.read_text(), pb.ModelConfig())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(repository: Path, name: str = "lostgan_512", *, replace: bool = False, data: bytes = b"onnx") -> None:
    with new_version(repository, name, replace=replace) as folder:
        assert not list(folder.iterdir())
        (folder / "model.onnx").write_bytes(data)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_configuration_says_what_the_contract_says(tmp_path: Path, configuration: str, vocabulary: str) -> None:
    manifest = a_manifest(vocabulary)
    write_configurations(tmp_path, "lostgan_512", manifest)
    config = parsed(tmp_path / "lostgan_512" / configuration)

    def specs(tensors: list[pb.ModelInput] | list[pb.ModelOutput]) -> tuple[TensorSpec, ...]:
        names = [pb.DataType.Name(tensor.data_type).removeprefix("TYPE_") for tensor in tensors]
        dtypes = [np.dtype(triton_to_np_dtype(name)) for name in names]
        return tuple(
            TensorSpec(tensor.name, dtype, tuple(tensor.dims)) for tensor, dtype in zip(tensors, dtypes, strict=True)
        )

    assert config.name == "lostgan_512"
    assert config.max_batch_size == manifest.max_batch
    assert specs(config.input) == input_specs(manifest.slots)
    assert specs(config.output) == output_specs(manifest.slots, manifest.resolution)
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.preferred_batch_size
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert Manifest.from_serving_parameters(parameters, "test").serving_parameters() == manifest.serving_parameters()


def test_backends_and_queues(tmp_path: Path) -> None:
    write_configurations(tmp_path, "lostgan_512", a_manifest())
    production, embedded, tensorrt = (parsed(tmp_path / "lostgan_512" / name) for name in CONFIGURATIONS)
    assert (production.backend, embedded.backend) == ("onnxruntime", "python")
    assert (tensorrt.backend, tensorrt.platform) == ("", "tensorrt_plan")
    assert tensorrt.optimization.cuda.graphs
    for config in (production, tensorrt):
        policy = config.dynamic_batching.default_queue_policy
        assert policy.max_queue_size > 0
        assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    # a bounded queue switches off what hides the Python backend's own time: see the comment in the file
    assert not embedded.dynamic_batching.default_queue_policy.max_queue_size


@pytest.mark.parametrize(("precision", "count"), [("fp32", 1), ("bf16", 2)])
def test_instances_of_the_embedded_model(tmp_path: Path, precision: Precision, count: int) -> None:
    write_configurations(tmp_path, "lostgan_512", a_manifest().model_copy(update={"precision": precision}))
    groups = parsed(tmp_path / "lostgan_512" / CONFIGURATIONS[1]).instance_group
    assert [(group.kind, group.count) for group in groups] == [(pb.ModelInstanceGroup.KIND_CPU, count)]


@pytest.mark.parametrize("max_batch", [1, 8])
@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_warmup_is_a_valid_layout(tmp_path: Path, vocabulary: str, max_batch: int) -> None:
    manifest = a_manifest(vocabulary, max_batch)
    write_configurations(tmp_path, "lostgan_512", manifest)
    folder = tmp_path / "lostgan_512"
    for configuration in CONFIGURATIONS:
        warmups = parsed(folder / configuration).model_warmup
        assert [warmup.batch_size for warmup in warmups] == sorted({1, max_batch})
        for warmup in warmups:
            assert {name: tuple(value.dims) for name, value in warmup.inputs.items()} == {
                spec.name: spec.dims for spec in input_specs(manifest.slots)
            }
            assert {name: value.input_data_file for name, value in warmup.inputs.items()} == {
                spec.name: spec.name for spec in input_specs(manifest.slots)
            }
    arrays = {
        spec.name: np.frombuffer((folder / "warmup" / spec.name).read_bytes(), spec.dtype).reshape(spec.dims)
        for spec in input_specs(manifest.slots)
    }
    assert all(0 < label < len(manifest.vocabulary) for label in arrays["labels"])
    assert all(manifest.vocabulary.labels[label] for label in arrays["labels"])
    assert (arrays["boxes"] >= 0).all()
    assert (arrays["boxes"][:, :2] + arrays["boxes"][:, 2:] <= 1).all()
    assert (arrays["boxes"][:, 2:] > 0).all()


def test_labels_stand_on_the_line_of_their_id(tmp_path: Path) -> None:
    manifest = a_manifest("coco-stuff")
    write_configurations(tmp_path, "lostgan_512", manifest)
    text = (tmp_path / "lostgan_512" / "labels.txt").read_text("utf-8")
    assert tuple(text.removesuffix("\n").split("\n")) == manifest.vocabulary.labels


def test_same_manifest_same_bytes_and_nothing_is_rewritten(tmp_path: Path) -> None:
    write_configurations(tmp_path / "a", "lostgan_512", a_manifest())
    write_configurations(tmp_path / "b", "lostgan_512", a_manifest())
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    write_configurations(tmp_path / "a", "lostgan_512", a_manifest())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    write_configurations(tmp_path / "a", "lostgan_512", a_manifest(max_batch=4))
    assert {name for name, data in contents(tmp_path / "a").items() if data != first[name]} == {
        f"lostgan_512/{name}" for name in CONFIGURATIONS
    }


def test_versions_count_up_and_replace_takes_the_newest_place(tmp_path: Path) -> None:
    publish(tmp_path, replace=True, data=b"1")
    publish(tmp_path, data=b"2")
    (tmp_path / "lostgan_512" / "10").mkdir()
    publish(tmp_path, data=b"11")
    publish(tmp_path, data=b"replaced", replace=True)
    found = {name: data for name, data in contents(tmp_path / "lostgan_512").items() if name.endswith(".onnx")}
    assert found == {"1/model.onnx": b"1", "2/model.onnx": b"2", "11/model.onnx": b"replaced"}
    assert b"import TritonPythonModel" in (tmp_path / "lostgan_512/11/model.py").read_bytes()


def test_what_a_killed_export_left_is_no_version(tmp_path: Path) -> None:
    left = tmp_path / "lostgan_512" / ".tmp-abc" / "new"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    with pytest.raises(ModelError, match="no exported model"):
        exported_models(tmp_path)
    publish(tmp_path)
    assert (tmp_path / "lostgan_512" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, replace: bool) -> None:
    publish(tmp_path)
    before = contents(tmp_path)

    def fail() -> None:
        with new_version(tmp_path, "lostgan_512", replace=replace) as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path) == before
    assert [path.name for path in (tmp_path / "lostgan_512").iterdir()] == ["1"]


def test_exported_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lostgan-serve export --res"):
        exported_models(tmp_path / "missing")
    write_configurations(tmp_path, "lostgan_512", a_manifest())  # as in git: no version
    with pytest.raises(ModelError, match=f"{tmp_path}.*lostgan-serve export --res"):
        exported_models(tmp_path)
    publish(tmp_path, "lostgan_128")
    publish(tmp_path, "lostgan_256")
    (tmp_path / "README.md").write_text("not a model")
    assert exported_models(tmp_path) == ["lostgan_128", "lostgan_256"]


def test_unwritable_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        write_configurations(tmp_path / "file", "lostgan_512", a_manifest())


def test_the_loser_of_two_exports_at_once_is_told(tmp_path: Path) -> None:
    def race() -> None:
        with new_version(tmp_path, "lostgan_512") as folder:
            (folder / "model.onnx").write_bytes(b"loser")
            publish(tmp_path, data=b"winner")

    with pytest.raises(OutputError, match=r"lostgan_512/1: another process has made it meanwhile"):
        race()
    assert (tmp_path / "lostgan_512" / "1" / "model.onnx").read_bytes() == b"winner"


def test_manifest_of_a_newer_version_is_read() -> None:
    manifest = a_manifest()
    newer = json.dumps(json.loads(manifest.to_json()) | {"added_later": 1})
    assert Manifest.from_json(newer, "newer") == manifest


def test_manifest_has_a_resolution_that_exists() -> None:
    odd = a_manifest().to_json().replace('"resolution": 512', '"resolution": 100')
    with pytest.raises(ModelError, match="odd: not a lostgan-serve model"):
        Manifest.from_json(odd, "odd")


def test_model_name() -> None:
    assert model_name(512) == "lostgan_512"


@pytest.mark.parametrize("folder", sorted((ROOT / "triton_repo").iterdir()), ids=lambda folder: folder.name)
def test_committed_configurations_are_what_export_writes(folder: Path, tmp_path: Path) -> None:
    config = parsed(folder / "config.pbtxt")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    write_configurations(tmp_path, folder.name, Manifest.from_serving_parameters(parameters, str(folder)))
    committed = {name: data for name, data in contents(folder).items() if not name[0].isdigit()}
    assert committed == contents(tmp_path / folder.name)
