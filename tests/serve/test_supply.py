"""The supply of models: what is damaged, edited or hostile is refused in one line, before a library loads it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from conftest import EXAMPLES, a_manifest, at_once, fails_in_one_line, run_cli
from lostgan_serve.contract import MAX_BATCH, MAX_LABELS
from lostgan_serve.errors import InputError, ModelError
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.model_folder import ModelFolder, ModelVersion
from lostgan_serve.onnx_file import read_metadata
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.openvino import OpenVinoRunner
from lostgan_serve.runners.tensorrt import Engine
from lostgan_serve.triton.configuration import (
    check_configuration,
    check_loaded_configuration,
    configuration_files,
    write_configuration,
)

HERE = Path("here.onnx")


# ONNX files


def small_model() -> onnx.ModelProto:
    """A graph of one operator and a few weights."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [2, 3], np.arange(6, dtype="<f4").tobytes(), raw=True)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weights"], ["y"], name="add")],
        "small",
        [value("x", TensorProto.FLOAT, [2, 3])],
        [value("y", TensorProto.FLOAT, [2, 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {METADATA_KEY: a_manifest().to_json(), "other": "é"})
    return model


def elsewhere(model: onnx.ModelProto, file: str) -> None:
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=file)


def with_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def of_type(model: onnx.ModelProto, kind: int, values: bytes) -> None:
    (weights,) = model.graph.initializer
    weights.data_type, weights.raw_data = kind, values


def with_weight(model: onnx.ModelProto, value: float) -> None:
    (weights,) = model.graph.initializer
    weights.raw_data = np.array([0, 1, value, 3, 4, 5], "<f4").tobytes()


def nested(model: onnx.ModelProto, depth: int) -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(depth):
        graph = helper.make_graph([helper.make_node("Loop", [], [], body=graph)], "body", [], [])
    model.graph.node.extend(graph.node)


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(model.graph.initializer[0])


NOT_FINITE = r"its tensor '\w+' holds values that are not finite"
HOSTILE: list[tuple[Callable[[onnx.ModelProto], Any], str]] = [
    (lambda m: elsewhere(m, "weights.bin"), "the values of its tensor 'weights' are in another file"),
    (lambda m: elsewhere(m, "../../etc/passwd"), "the values of its tensor 'weights' are in another file"),
    (lambda m: m.graph.initializer[0].external_data.add(key="location", value="x"), "are in another file"),
    (lambda m: m.graph.initializer[0].dims.append(2**40), r"has not as many values as its shape says, \[2, 3, 10995"),
    (lambda m: m.graph.initializer[0].dims.append(-1), r"has not as many values as its shape says, \[2, 3, -1\]"),
    (lambda m: m.graph.initializer[0].dims.extend([2**62] * 100_000), "has not as many values as its shape says"),
    (lambda m: with_constant(m, TensorProto(name="c", data_type=1, dims=[2**40])), "tensor 'c' has not as many values"),
    (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "'Add' of the domain 'com.microsoft' is none of"),
    (lambda m: setattr(m.graph.node[0], "domain", "a\nb" * 99), r"'Add' of the domain 'a\\nb.{1,40}' is none of"),
    (lambda m: with_weight(m, float("nan")), NOT_FINITE),
    (lambda m: with_weight(m, float("-inf")), NOT_FINITE),
    (lambda m: with_constant(m, helper.make_tensor("c", TensorProto.FLOAT, [1], [float("inf")])), NOT_FINITE),
    (lambda m: with_constant(m, helper.make_tensor("c", TensorProto.DOUBLE, [1], [float("nan")])), NOT_FINITE),
    (lambda m: of_type(m, TensorProto.FLOAT16, np.array([0, np.inf, 0, 0, 0, 0], "<f2").tobytes()), NOT_FINITE),
    (lambda m: of_type(m, TensorProto.BFLOAT16, b"\x00\x00\xc0\x7f" + bytes(8)), NOT_FINITE),
    (lambda m: of_type(m, TensorProto.DOUBLE, np.array([np.nan] * 6, "<f8").tobytes()), NOT_FINITE),
    (sparse, "it has a sparse tensor"),
    (lambda m: nested(m, 20), "it has graphs within graphs, over 8 deep"),
    (lambda m: m.functions.add(name="Add", domain=""), "it has functions of its own"),
    (lambda m: m.graph.node.extend([onnx.NodeProto(op_type="Add")] * 200_001), "it has over 200,000 parts"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_an_onnx_file_that_trusts_itself_is_refused(change: Callable[[onnx.ModelProto], Any], words: str) -> None:
    model = small_model()
    assert read_metadata(model.SerializeToString(), HERE)["other"] == "é"
    change(model)
    with at_once(), pytest.raises(ModelError, match=rf"^here\.onnx: .*{words}.*; export it again") as caught:
        read_metadata(model.SerializeToString(), HERE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("message", "field", "disguise"),
    [
        ("node", b"\x3a\x04evil", b"\x38\x00"),  # a domain, and the same field as a number
        ("tensor", b"\x10\x01", b"\x12\x00"),  # float's type, and the same field as a text
        ("tensor", b"\x70\x01", b"\x72\x00"),  # values elsewhere, likewise
    ],
)
def test_a_field_of_another_kind_hides_nothing(message: str, field: bytes, disguise: bytes) -> None:
    """Every reader passes it over: so the last of the right kind counts."""
    model = small_model()
    with_weight(model, float("nan") if field[0] == 0x10 else 2.0)
    part = model.graph.node[0] if message == "node" else model.graph.initializer[0]
    before = part.SerializeToString()
    whole = model.SerializeToString()
    with pytest.raises(ModelError, match=r"evil|not finite|another file"):
        read_metadata(spliced(whole, before, before + field + disguise), HERE)


def spliced(whole: bytes, part: bytes, longer: bytes) -> bytes:
    """A model's bytes with a part of its graph in place of another; all lengths have one byte or two."""
    model = onnx.ModelProto.FromString(whole)
    graph = model.graph.SerializeToString()
    place = graph.index(part)
    assert len(part) < 128 - 6
    graph = graph[: place - 1] + bytes([len(longer)]) + longer + graph[place + len(part) :]
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + varint(len(graph)) + graph


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7])


def test_weights_of_every_type_that_export_writes_pass() -> None:
    for kind, values in ((TensorProto.FLOAT16, bytes(12)), (TensorProto.BFLOAT16, b"\x7f\x7f" * 6)):
        model = small_model()
        of_type(model, kind, values)
        assert METADATA_KEY in read_metadata(model.SerializeToString(), HERE)


def test_no_mutation_of_a_file_is_more_than_refused() -> None:
    """Cut, with bytes changed, left out and doubled; nothing but a ModelError of one line comes of it."""
    whole, rng = small_model().SerializeToString(), random.Random(0)
    refused = 0
    for _ in range(5000):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            read_metadata(bytes(data), HERE)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 500 < refused < 5000


@pytest.mark.parametrize("runner", [OnnxRunner, OpenVinoRunner])
def test_runners_refuse_such_a_file(runner: Callable[[Path], Any], tiny_model: Path, tmp_path: Path) -> None:
    """An ONNX file by itself, which no manifest seals. Both libraries would load the first three."""
    for change, words in (
        (lambda m: m.graph.initializer[0].CopyFrom(not_finite(m.graph.initializer[0])), "not finite"),
        (lambda m: beside(m, tmp_path), "in another file"),
        (lambda m: with_constant(m, TensorProto(name="c", data_type=1, dims=[2**40])), "not as many values"),
        (lambda m: setattr(m.graph.node[0], "domain", "evil"), "none of the ONNX standard"),
    ):
        model = onnx.load(tiny_model)
        change(model)
        onnx.save(model, tmp_path / "hostile.onnx")
        with pytest.raises(ModelError, match=rf"hostile\.onnx: .*{words}"):
            runner(tmp_path / "hostile.onnx")


def not_finite(tensor: TensorProto) -> TensorProto:
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    return onnx.numpy_helper.from_array(values, tensor.name)


def beside(model: onnx.ModelProto, folder: Path) -> None:
    """Move a tensor's values to a file beside the model's, whence every library reads them."""
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


# manifests


@pytest.fixture
def version(tiny_model: Path, tmp_path: Path) -> ModelVersion:
    """A copy of the tiny model in a repository of its own, to be spoilt."""
    shutil.copytree(tiny_model.parent.parent, tmp_path / "repository" / "lostgan_128")
    return ModelFolder(tmp_path / "repository" / "lostgan_128").newest()


def swapped(text: str) -> str:
    """With two labels in one another's places."""
    return text.replace("sky", "SKY").replace("mountain", "sky").replace("SKY", "mountain")


def test_a_manifest_that_was_edited_is_named(version: ModelVersion, tmp_path: Path) -> None:
    version.manifest_file.write_text(swapped(version.manifest_file.read_text()))
    for runner in ("onnxrt", "openvino"):
        options = ("--model", version.onnx.parent.parent, "--out", tmp_path / "out", "--runner", runner)
        done = run_cli("generate", EXAMPLES[0], *options)
        fails_in_one_line(
            done, [version.manifest_file, "differs from the manifest within model.onnx", "export it again"]
        )
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_hash_is_opened_with_a_note(version: ModelVersion, tmp_path: Path) -> None:
    """Whoever has only the model could not export it again."""
    older = json.loads(version.manifest_file.read_text())
    del older["onnx_sha256"]
    version.manifest_file.write_text(json.dumps(older))
    options = ("--model", version.onnx.parent.parent, "--out", tmp_path / "out", "--only", "image")
    done = run_cli("generate", EXAMPLES[0], *options, check=True)
    assert f"note: {version.onnx} has no hash in a manifest.json beside it" in done.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"max_batch": 10**9},
        {"max_batch": MAX_BATCH + 1},
        {"slots": 2**40},
        {"resolution": 2**40},
        {"vocabulary": {"name": "x", "labels": ["__image__", *(["sky"] * MAX_LABELS * 100)]}},
    ],
)
def test_sizes_in_a_manifest_are_bounded(fields: dict[str, Any]) -> None:
    text = json.dumps(json.loads(a_manifest().to_json()) | fields)
    with at_once(), pytest.raises(ModelError, match=r"^large: not a lostgan-serve model"):
        Manifest.from_json(text, "large")


def test_a_file_larger_than_any_manifest_is_not_read(version: ModelVersion) -> None:
    with version.manifest_file.open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    with pytest.raises(InputError, match=r"manifest\.json: is larger than 16 MiB"):
        version.check()


def test_an_onnx_file_larger_than_the_format_allows_is_not_read(version: ModelVersion) -> None:
    with version.onnx.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"model\.onnx: is larger than 2,048 MiB"):
        version.check()


# engines


def test_an_engine_belongs_to_the_model_beside_it(version: ModelVersion) -> None:
    note = {
        "target": "tensorrt",
        "version": "10.12",
        "gpu": None,
        "compute_capabilities": ["8.6"],
        "precision": "fp32",
        "profile": {"min": 1, "opt": 4, "max": 8},
        "onnx_sha256": version.manifest().onnx_sha256,
        "plan_sha256": "0" * 64,
    }
    version.plan.write_bytes(b"an engine")
    version.engine_note.write_text(json.dumps(note))
    Engine.load(version.plan).check_model(version)
    version.engine_note.write_text(json.dumps(note | {"onnx_sha256": "1" * 64}))
    with pytest.raises(ModelError, match=r"model\.plan: built of another model than the manifest's"):
        Engine.load(version.plan).check_model(version)
    version.engine_note.write_text(json.dumps(note | {"profile": {"min": 1, "opt": 4, "max": 10**9}}))
    with pytest.raises(ModelError, match=r"engine\.json: not what export writes"):
        Engine.load(version.plan)


# configurations


@pytest.fixture
def configured(tmp_path: Path) -> ModelFolder:
    folder = ModelFolder(tmp_path / "lostgan_512")
    write_configuration(folder, a_manifest("scenes"))
    check_configuration(folder, a_manifest("scenes"))
    return folder


FILES = ("config.pbtxt", "configs/embedded.pbtxt", "configs/tensorrt.pbtxt", "labels.txt")


@pytest.mark.parametrize("file", FILES)
def test_labels_that_were_swapped_are_named(configured: ModelFolder, file: str) -> None:
    path = configured.path / file
    path.write_text(swapped(path.read_text()))
    with pytest.raises(ModelError, match=rf"^{path}: its (labels|parameter vocabulary) differ.*put back what export w"):
        check_configuration(configured, a_manifest("scenes"))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("max_batch_size: 8", "max_batch_size: 16", "its max_batch_size"),
        ("dims: [12, 4]", "dims: [13, 4]", "its input"),
        ("dims: [512, 512, 3]", "dims: [256, 512, 3]", "its output"),
        ('string_value: "untrained"', 'string_value: "trained"', "its parameter weights"),
        ('key: "weights"', 'key: "seed"', "its parameter seed"),
        ("max_batch_size", "max_batch_size {", "not a configuration of Triton"),
    ],
)
def test_a_configuration_that_was_edited_is_named(configured: ModelFolder, before: str, after: str, words: str) -> None:
    path = configured.path / "configs" / "embedded.pbtxt"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ModelError, match=rf"^{path}: {words}.*export the model again$") as caught:
        check_configuration(configured, a_manifest("scenes"))
    assert "\n" not in str(caught.value)


def test_queues_instances_and_other_parameters_are_for_operators_to_choose(configured: ModelFolder) -> None:
    path = configured.path / "config.pbtxt"
    text = path.read_text().replace("max_queue_size: 128", "max_queue_size: 16")
    path.write_text(text + 'parameters { key: "mine" value { string_value: "1" } }\n')
    (configured.path / "configs" / "tensorrt.pbtxt").unlink()
    check_configuration(configured, a_manifest("scenes"))


def test_the_configuration_that_a_server_has_loaded_counts() -> None:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2 as pb

    written = configuration_files("lostgan_512", a_manifest("scenes"))["configs/embedded.pbtxt"]
    loaded = json_format.MessageToJson(text_format.Parse(written, pb.ModelConfig()), preserving_proto_field_name=True)
    check_loaded_configuration(loaded, "loaded", a_manifest("scenes"))
    with pytest.raises(ModelError, match=r"^loaded: its parameter vocabulary differs"):
        check_loaded_configuration(swapped(loaded), "loaded", a_manifest("scenes"))


def test_serve_does_not_start_with_labels_that_were_swapped(version: ModelVersion) -> None:
    model = version.onnx.parent.parent
    path = model / "configs" / "embedded.pbtxt"
    path.write_text(swapped(path.read_text()))
    ports = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    done = run_cli("serve", "--repository", model.parent, *ports)
    fails_in_one_line(done, [path, "its parameter vocabulary differs", "put back what export wrote"])
