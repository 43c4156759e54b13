"""The ONNX file: it holds the contract, it generates the same as PyTorch, and parity tells where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from conftest import ROOT
from lostgan_export import parity
from lostgan_export.fused import fuse
from lostgan_export.onnx_export import export_onnx, set_manifest
from lostgan_serve.contract import INPUT_NAMES, OUTPUT_NAMES, empty_batch, input_specs, output_specs
from lostgan_serve.encoding import encode
from lostgan_serve.errors import (
    ModelError,
    ParityError,
)
from lostgan_serve.manifest import Manifest, Parity
from lostgan_serve.runners.onnxrt import OnnxRunner, open_session
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary
from lostgan_train.networks.checkpoint import Checkpoint, random_checkpoint

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


@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
@pytest.mark.parametrize("capacity", [1, 2, 12, 253])
def test_sample_layouts_fit(vocabulary: str, capacity: int) -> None:
    _, manifest = tiny("v1-64", vocabulary, capacity + Vocabulary.built_in(vocabulary).background)
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


@pytest.mark.parametrize(("output", "excess"), [("image_max", 3), ("masks_max", 2), ("object_map_differs", 2)])
def test_each_output_is_checked(output: str, excess: int) -> None:
    good = Parity(layouts=1, image_max=1, image_mean=0, masks_max=1, masks_mean=0, object_map_differs=0)
    parity.check(good)
    with pytest.raises(ParityError):
        parity.check(good.model_copy(update={output: excess}))


def test_single_values_may_be_off_by_two_levels_where_nearly_all_others_are_equal() -> None:
    """Of 3.1 million values of a network of 512 px, two were."""
    good = Parity(
        layouts=1, image_max=2, image_mean=0, image_psnr_db=84, masks_max=1, masks_mean=0, object_map_differs=0
    )
    parity.check(good)
    with pytest.raises(ParityError, match=r"PSNR of 60\.0 dB \(floor 70 dB\)"):
        parity.check(good.model_copy(update={"image_max": 1, "image_psnr_db": 60}))


def test_reference_that_is_not_finite(exported: Path) -> None:
    checkpoint, _ = tiny()
    with torch.no_grad():
        checkpoint.generator.fc.bias[0] = torch.nan
    with pytest.raises(ParityError, match="not finite"):
        parity.measure(OnnxRunner(exported), checkpoint.generator)


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


def test_tensors_that_do_not_fit_are_one_line(exported: Path) -> None:
    runner = OnnxRunner(exported)
    with pytest.raises(ModelError, match=r"model\.onnx: it cannot generate these layouts \(.*\)$") as caught:
        runner.run(empty_batch(1, SLOTS + 1), OUTPUT_NAMES)
    assert "\n" not in str(caught.value)


def test_a_wrong_label_does_not_fail_its_batch_in_a_server_that_runs_the_graph_alone(exported: Path) -> None:
    """Runners refuse such a batch; the onnxruntime backend of tritonserver has no check but the graph's own."""
    _, manifest = tiny()
    tensors = encode(parity.sample_layouts(manifest)[:2], manifest)
    session = open_session(exported, 1, ["CPUExecutionProvider"])
    (expected,) = session.run(["image"], tensors)
    tensors["labels"][1, :2] = -1, 10**9
    (images,) = session.run(["image"], tensors)
    np.testing.assert_array_equal(images[0], expected[0])


def test_manifest_of_an_older_version_refines_masks_in_all_stages() -> None:
    _, manifest = tiny()
    older = json.loads(manifest.to_json())
    del older["mask_stages"]
    assert Manifest.from_json(json.dumps(older), "older").mask_stages is None
