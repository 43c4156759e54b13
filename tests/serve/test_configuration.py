"""Triton configurations: they say what the contract says, whatever the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from conftest import ROOT, a_manifest
from lostgan_serve.contract import TensorSpec, input_specs, output_specs
from lostgan_serve.errors import OutputError
from lostgan_serve.manifest import Manifest, Precision
from lostgan_serve.model_folder import ModelFolder
from lostgan_serve.triton.configuration import write_configuration
from lostgan_serve.triton.digests import DIGEST
from lostgan_serve.vocabulary import BUILT_IN_NAMES

CONFIGURATIONS = ("config.pbtxt", "configs/embedded.pbtxt", "configs/tensorrt.pbtxt")


def parsed(path: Path) -> pb.ModelConfig:
    return text_format.Parse(path.read_text("utf-8"), pb.ModelConfig())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_configuration_says_what_the_contract_says(tmp_path: Path, configuration: str, vocabulary: str) -> None:
    manifest = a_manifest(vocabulary)
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), manifest)
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
    own = (DIGEST,) if config.backend == "python" else ()
    assert specs(config.output) == (*output_specs(manifest.slots, manifest.resolution), *own)
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.preferred_batch_size
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert Manifest.from_serving_parameters(parameters, "test").serving_parameters() == manifest.serving_parameters()


def test_backends_and_queues(tmp_path: Path) -> None:
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), a_manifest())
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
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), a_manifest().model_copy(update={"precision": precision}))
    groups = parsed(tmp_path / "lostgan_512" / CONFIGURATIONS[1]).instance_group
    assert [(group.kind, group.count) for group in groups] == [(pb.ModelInstanceGroup.KIND_CPU, count)]


@pytest.mark.parametrize("max_batch", [1, 8])
@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_warmup_is_a_valid_layout(tmp_path: Path, vocabulary: str, max_batch: int) -> None:
    manifest = a_manifest(vocabulary, max_batch)
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), manifest)
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
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), manifest)
    text = (tmp_path / "lostgan_512" / "labels.txt").read_text("utf-8")
    assert tuple(text.removesuffix("\n").split("\n")) == manifest.vocabulary.labels


def test_same_manifest_same_bytes_and_nothing_is_rewritten(tmp_path: Path) -> None:
    write_configuration(ModelFolder(tmp_path / "a" / "lostgan_512"), a_manifest())
    write_configuration(ModelFolder(tmp_path / "b" / "lostgan_512"), a_manifest())
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    write_configuration(ModelFolder(tmp_path / "a" / "lostgan_512"), a_manifest())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    write_configuration(ModelFolder(tmp_path / "a" / "lostgan_512"), a_manifest(max_batch=4))
    assert {name for name, data in contents(tmp_path / "a").items() if data != first[name]} == {
        f"lostgan_512/{name}" for name in CONFIGURATIONS
    }


def test_unwritable_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        write_configuration(ModelFolder(tmp_path / "file" / "lostgan_512"), a_manifest())


@pytest.mark.parametrize("folder", sorted((ROOT / "triton_repo").iterdir()), ids=lambda folder: folder.name)
def test_committed_configurations_are_what_export_writes(folder: Path, tmp_path: Path) -> None:
    config = parsed(folder / "config.pbtxt")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    write_configuration(ModelFolder(tmp_path / folder.name), Manifest.from_serving_parameters(parameters, str(folder)))
    committed = {name: data for name, data in contents(folder).items() if not name[0].isdigit()}
    assert committed == contents(tmp_path / folder.name)
