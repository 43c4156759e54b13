"""The generators against the original's outputs, the importer of released weights, and checkpoints."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import Arrays, Cli
from lostgan_serve.contract import PAD_BOX
from lostgan_serve.errors import CheckpointError, InputError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.commands import import_weights
from lostgan_train.networks.checkpoint import load_checkpoint, random_checkpoint, save_checkpoint
from lostgan_train.networks.generator import Generator, GeneratorConfig
from lostgan_train.networks.importer import convert_official, load_official, read_official
from lostgan_train.networks.layers import initialize
from official_state import official_state

Shapes = dict[str, dict[str, list[int]]]
Released = Callable[[str], dict[str, torch.Tensor]]
OFFICIAL = [
    ("generator_v1_64", "v1-64", "coco-stuff"),
    ("generator_v1_128", "v1-128", "coco-stuff"),
    ("generator_v2_128", "v2-128", "coco-stuff"),
    ("generator_v2_256", "v2-256", "coco-stuff"),
    ("generator_v2_128_vg", "v2-128", "visual-genome"),
]


@pytest.fixture(scope="module")
def released(official_shapes: Shapes) -> Callable[[str], dict[str, torch.Tensor]]:
    """A state dict as the original saved it, by its name in keys.json."""

    @cache
    def state(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in official_state(official_shapes[name]).items()}

    return lambda name: dict(state(name))


@pytest.mark.parametrize(("name", "variant"), [("generator_v1_64", "v1-64"), ("generator_v2_128", "v2-128")])
def test_golden_parity(name: str, variant: str, released: Released, golden: Callable[[str], Arrays]) -> None:
    """Image within 2e-4 at the worst pixel and 1e-5 on average; masks within 2e-3, which fp16 storage leaves."""
    expected = golden(name)
    generator = convert_official(released(name), GeneratorConfig(variant, 184))
    inputs = (torch.from_numpy(expected[key]) for key in ("labels", "boxes_xywh", "z_obj", "z_img"))
    with torch.inference_mode():
        output = generator(*inputs)
    difference = np.abs(output.image.numpy() - expected["image"])
    assert difference.max() <= 2e-4
    assert difference.mean() <= 1e-5
    for masks, key in ((output.mask_initial, "mask_initial"), (output.mask_final, "mask_final")):
        assert np.abs(masks.numpy() - expected[key].astype(np.float32)).max() <= 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant", "vocabulary"), OFFICIAL)
def test_every_released_generator_imports(
    name: str, variant: str, vocabulary: str, released: Released, tmp_path: Path
) -> None:
    state = released(name)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "G.pth")
    generator = load_official(tmp_path / "G.pth", GeneratorConfig(variant, len(Vocabulary.built_in(vocabulary))))
    assert sum(p.numel() for p in generator.state_dict().values()) == sum(p.numel() for p in state.values())


def test_spectral_vectors_that_old_files_lack_are_found(released: Released) -> None:
    state, config = released("generator_v1_64"), GeneratorConfig("v1-64", 184)
    whole = convert_official(state, config)
    for lacking in (("weight_v",), ("weight_u", "weight_v")):
        partial = convert_official({k: v for k, v in state.items() if not k.endswith(lacking)}, config)
        torch.testing.assert_close(partial.fc.weight, whole.fc.weight, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc.bias"), ["1 missing (such as fc.bias)", "--variant"]),
        (lambda s: s.update(extra=torch.zeros(1)), ["1 unknown (such as extra)"]),
        (lambda s: s.update({"fc.bias": torch.zeros(3)}), ["fc.bias has shape [3]", "--vocabulary"]),
    ],
)
def test_leftover_names_and_foreign_shapes_are_errors(
    change: Callable[[dict[str, torch.Tensor]], Any], words: list[str], released: Released
) -> None:
    state = released("generator_v1_64")
    change(state)
    with pytest.raises(CheckpointError) as caught:
        convert_official(state, GeneratorConfig("v1-64", 184))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_import_command_writes_a_checkpoint_that_loads(cli: Cli, released: Released, tmp_path: Path) -> None:
    source, target = tmp_path / "G_coco.pth", tmp_path / "coco-64.safetensors"
    torch.save(released("generator_v1_64"), source)
    done = cli("import", source, "--variant", "v1-64", "--vocabulary", "coco-stuff", "--output", target, check=True)
    assert f"lostgan-serve export --checkpoint {target}" in done.stdout
    loaded = load_checkpoint(target)
    assert (loaded.weights, loaded.vocabulary.name, loaded.generator.config.resolution) == ("trained", "coco-stuff", 64)


@pytest.mark.parametrize(
    ("variant", "vocabulary", "words"),
    [
        ("v2-128", "coco-stuff", r"names do not fit v2-128.*--variant"),
        ("v1-64", "visual-genome", r"label_embedding\.weight has shape \[184, 128\].*--vocabulary"),
    ],
)
def test_weights_of_another_network_are_not_imported(
    variant: str, vocabulary: str, words: str, released: Released, tmp_path: Path
) -> None:
    torch.save(released("generator_v1_64"), tmp_path / "G.pth")
    refused(rf"G\.pth: .*{words}", tmp_path / "G.pth", variant, vocabulary, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def refused(match: str, source: Path, variant: str, vocabulary: str, output: Path) -> None:
    """Assert that `import` ends with one line."""
    arguments = [source, "--variant", variant, "--vocabulary", vocabulary, "--output", output]
    with pytest.raises(CheckpointError, match=match) as caught:
        CliRunner().invoke(import_weights, [str(argument) for argument in arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with zipfile.ZipFile(tmp_path / "zipped.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Bomb(tmp_path / "exploded")}))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    for name in ("plain.pth", "zipped.pth"):
        refused(f"{name}: .*refused without unpickling", tmp_path / name, "v1-64", "coco-stuff", tmp_path / "x")
    assert not (tmp_path / "exploded").exists()


def test_broken_weight_files_are_named(released: Released, tmp_path: Path) -> None:
    config = GeneratorConfig("v1-64", 184)
    whole = tmp_path / "whole.pth"
    torch.save(released("generator_v1_64"), whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:100_000])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"fc": torch.zeros(1)}}, tmp_path / "nested.pth")
    for name in ("none", "cut", "empty", "text", "list", "nested"):
        with pytest.raises(InputError if name == "none" else CheckpointError, match=rf"{name}\.pth: "):
            load_official(tmp_path / f"{name}.pth", config)


def test_a_text_is_not_called_dangerous(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match=r"not a file that torch\.save wrote") as caught:
        read_official(tmp_path / "page.pth")
    assert "could run code" not in str(caught.value)


def test_names_must_be_text(tmp_path: Path) -> None:
    torch.save({7: torch.zeros(1)}, tmp_path / "int.pth")
    with pytest.raises(CheckpointError, match=r"int\.pth: holds no state dict"):
        read_official(tmp_path / "int.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_weight_files_are_named_whatever_is_damaged(zipped: bool, tmp_path: Path) -> None:
    """Of a small file, so that most of the damage is in its structure. Some leaves a file that can be read."""
    path, rng = tmp_path / "damaged.pth", np.random.default_rng(0)
    torch.save({"a": torch.zeros(2), "b": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            read_official(path)
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 20


def test_released_weights_that_are_not_finite_are_refused(released: Released) -> None:
    state = released("generator_v1_64")
    state["fc.bias"] = torch.full_like(state["fc.bias"], torch.inf)
    with pytest.raises(CheckpointError, match=r"fc\.bias holds values that are not finite"):
        convert_official(state, GeneratorConfig("v1-64", 184))


def test_a_checkpoint_carries_everything(tmp_path: Path) -> None:
    saved = random_checkpoint("v2-256", Vocabulary.built_in("visual-genome"), seed=3, ch=2)
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.generator.config == saved.generator.config
    assert (loaded.vocabulary, loaded.weights, loaded.seed) == (saved.vocabulary, "untrained", 3)
    assert loaded.sha256 is not None
    for key, value in saved.generator.state_dict().items():
        torch.testing.assert_close(loaded.generator.state_dict()[key], value, rtol=0, atol=0)


def test_random_weights_are_a_function_of_the_seed() -> None:
    scenes = Vocabulary.built_in("scenes")
    first, again, other = (random_checkpoint("v1-64", scenes, seed, ch=2).generator.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    key = "fc.parametrizations.weight.original"
    assert not torch.equal(first[key], other[key])


def test_broken_checkpoints_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    whole = tiny_checkpoint.read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1000])
    (tmp_path / "head").write_bytes(whole[:100])
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "damaged").write_bytes(whole.replace(b"v2-128", b"v9-128"))
    (tmp_path / "other").write_bytes(whole.replace(b"v2-128", b"v1-128"))
    (tmp_path / "foreign").write_bytes(whole.replace(b"lostgan-serve generator", b"lostgan-serve generatxr"))
    words = {
        "none": "no such checkpoint",
        "cut": "truncated",
        "head": "truncated",
        "text": "not a safetensors file",
        "damaged": "metadata is damaged",
        "other": "do not fit its own config",
        "foreign": "not one of lostgan-serve's",
    }
    for name, word in words.items():
        with pytest.raises(InputError if name == "none" else CheckpointError, match=rf"{name}: .*{word}"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights", None, "metadata is damaged"),
        ("weights", "some", "metadata is damaged"),
        ("seed", "x", "metadata is damaged"),
        ("config", '{"variant": "v1-64", "num_labels": 2, "ch": 10000000}', "do not fit its own config"),
        ("config", '{"variant": "v1-64", "num_labels": 2, "ch": 1.5}', "do not fit its own config"),
        ("vocabulary", '{"name": "x", "labels": ["__image__"]}', "1 labels in the vocabulary, 2 in the config"),
        ("vocabulary", '{"name": "x", "labels": ["__image__", 3]}', "metadata is damaged"),
    ],
)
def test_damaged_metadata_is_named(key: str, value: str | None, words: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save_checkpoint(whole, random_checkpoint("v1-64", Vocabulary("x", ("__image__", "sky")), seed=0, ch=1))
    with safe_open(whole, framework="pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata[key]
    save_file(state, tmp_path / "damaged", metadata if value is None else {**metadata, key: value})
    with pytest.raises(CheckpointError, match=f"damaged: .*{words}") as caught:
        load_checkpoint(tmp_path / "damaged")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=1)
    with torch.no_grad():
        checkpoint.generator.final_norm.weight[0] = float("nan")
    save_checkpoint(tmp_path / "nan", checkpoint)
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(tmp_path / "nan")


@pytest.mark.parametrize(
    "fields",
    [{"variant": "v3-128"}, {"norm": "layer"}, {"ch": 0}, {"num_labels": 0}, {"num_labels": 200}, {"mask_classes": 5}],
)
def test_impossible_configs_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown variant|unknown norm|must be positive|must cover"):
        GeneratorConfig(**{"variant": "v1-64", "num_labels": 10, **fields})


def test_half_a_checkpoint_is_nearly_the_same(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2)
    for name, half in (("whole", False), ("half", True)):
        save_checkpoint(tmp_path / name, checkpoint, half=half)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size
    loaded = load_checkpoint(tmp_path / "half").generator.state_dict()
    for name, value in checkpoint.generator.state_dict().items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6)


_WRITES_BOTH = """
import sys
from pathlib import Path
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import (
    DiscriminatorCheckpoint, random_checkpoint, save_checkpoint, save_discriminator
)
from lostgan_train.networks.discriminator import Discriminator, DiscriminatorConfig
from lostgan_train.networks.layers import initialize

folder, scenes = Path(sys.argv[1]), Vocabulary.built_in("scenes")
save_checkpoint(folder / "generator", random_checkpoint("v1-64", scenes, seed=0, ch=1))
discriminator = Discriminator(DiscriminatorConfig(64, len(scenes), ch=1))
initialize(discriminator, seed=0)
save_discriminator(folder / "discriminator", DiscriminatorCheckpoint(discriminator, scenes))
"""


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    for name in ("one", "other"):
        subprocess.run([sys.executable, "-c", _WRITES_BOTH, tmp_path / name], check=True, timeout=120)
    for kind in ("generator", "discriminator"):
        assert (tmp_path / "one" / kind).read_bytes() == (tmp_path / "other" / kind).read_bytes()
    assert load_checkpoint(tmp_path / "one" / "generator").seed == 0


def a_layout(labels: int = 9) -> tuple[torch.Tensor, ...]:
    """Inputs of two layouts of three objects."""
    rng = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 1, 0.5], [0.1, 0.2, 0.5, 0.6], [0.6, 0.5, 0.3, 0.4]]).expand(2, -1, -1)
    ids = torch.randint(1, labels, (2, 3), generator=rng)
    return ids, boxes, torch.randn(2, 3, 128, generator=rng), torch.randn(2, 128, generator=rng)


@pytest.mark.parametrize(("variant", "stages"), [("v1-64", 0), ("v1-128", 0), ("v2-128", 4), ("v2-256", 5)])
def test_the_masks_of_every_stage(variant: str, stages: int) -> None:
    """m_k depends on no later stage, is what stopping at k ends with, and has the side of the block that it enters."""
    generator = Generator(GeneratorConfig(variant, num_labels=9, ch=1, mask_classes=9))
    initialize(generator, seed=0)
    generator.eval()
    assert generator.config.mask_stages == stages
    with torch.inference_mode():
        plain, whole = generator(*a_layout()), generator(*a_layout(), all_masks=True)
        assert plain.all_masks == ()
        assert torch.equal(plain.image, whole.image)
        assert [masks.shape[-1] for masks in whole.all_masks] == [64, *(4 * 2**k for k in range(1, stages + 1))]
        assert torch.equal(whole.all_masks[0], plain.mask_initial)
        assert torch.equal(whole.all_masks[-1], plain.mask_final)
        for k in range(stages + 1):
            limited = generator(*a_layout(), mask_stages=k, all_masks=True)
            assert torch.equal(limited.mask_final, whole.all_masks[k])
            assert torch.equal(limited.image, whole.image) == (k == stages)
            for ours, theirs in zip(limited.all_masks, whole.all_masks[: k + 1], strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_small_object_reaches_the_whole_picture_where_masks_are_pooled(pooled: bool) -> None:
    """One of a fifth of the side that lies between the samples of the 4 x 4 map: the paper's generator sees it from the
    8 x 8 map on, from where convolutions do not reach the far corner."""
    generator = Generator(GeneratorConfig("v1-128", num_labels=9, ch=4, mask_classes=9, max_pool_masks=pooled))
    initialize(generator, seed=0)
    generator.eval()
    labels, _, z_obj, z_img = (tensor[:1] for tensor in a_layout())
    boxes = torch.tensor([[[0.0, 0, 1, 0.5], [0, 0.5, 1, 0.5], [9 / 63, 9 / 63, 12 / 63, 12 / 63]]])
    with torch.inference_mode():
        first = generator(labels, boxes, z_obj, z_img).image
        z_obj = z_obj.clone()
        z_obj[:, 2] *= -3
        second = generator(labels, boxes, z_obj, z_img).image
    far = (first - second).abs()[..., 96:, 96:].max()
    assert (far > 0) == pooled


@torch.inference_mode()
def test_labels_set_the_light_of_the_whole_picture_and_styles_do_not() -> None:
    """With a labels' context, one label more changes the map that the blocks start from, everywhere and wherever its
    box is; nothing else does. Untrained, the context is nothing, and empty slots never add to it, whatever their label.
    """
    config = GeneratorConfig("v1-128", num_labels=9, ch=4, mask_classes=9)
    plain, generator = Generator(config), Generator(replace(config, label_context=True))
    initialize(plain, seed=0)
    initialize(generator, seed=0)
    labels, boxes, z_obj, z_img = a_layout()
    assert torch.equal(plain.eval()(labels, boxes, z_obj, z_img).image, generator.eval()(*a_layout()).image)
    assert generator.label_context is not None
    generator.label_context[1:].normal_(generator=torch.Generator().manual_seed(1))
    start = generator.start(labels, boxes, z_img)
    torch.testing.assert_close(start, generator.start(labels.flip(1), boxes, z_img))
    more = torch.cat([labels, torch.full_like(labels[:, :1], 5)], 1)
    empty, corner = torch.tensor(PAD_BOX), torch.tensor([0.9, 0.9, 0.05, 0.05])
    without, beside = (torch.cat([boxes, box.expand(2, 1, 4)], 1) for box in (empty, corner))
    assert torch.equal(start, generator.start(more, without, z_img))
    assert ((generator.start(more, beside, z_img) - start).abs().amax(1) > 0.1).all()


@pytest.mark.parametrize(
    ("variant", "stage", "words"),
    [("v2-128", 5, "4 stages; give 0 to 4, not 5"), ("v2-128", -1, "not -1"), ("v1-64", 1, "0 stages; give 0, not 1")],
)
def test_a_stage_that_does_not_exist_is_refused(variant: str, stage: int, words: str) -> None:
    generator = Generator(GeneratorConfig(variant, num_labels=9, ch=1, mask_classes=9))
    with pytest.raises(ValueError, match=words):
        generator(*a_layout(), mask_stages=stage)
