"""GauGAN: its generator against a reference written from the paper, and the command on random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from beach import beach_layouts, write_samples
from conftest import Cli, fails_in_one_line
from lostgan_evaluate.commands.gaugan import gaugan as command
from lostgan_evaluate.gaugan import post_hoc
from lostgan_evaluate.gaugan.label_maps import LABELS, UNKNOWN, LabelMap, semantics
from lostgan_evaluate.gaugan.network import WITH_EDGES, Block, GauGAN, SpatialNorm, load_gaugan
from lostgan_serve.contract import Array
from lostgan_serve.errors import CheckpointError, EvaluationError, InputError
from lostgan_serve.layout import Layout
from lostgan_serve.png import provenance_of

State = dict[str, Tensor]

SMALL_PX = 64

FACTS = {
    "fc.weight": [1024, 184, 3, 3],
    "fc.bias": [1024],
    "head_0.conv_0.weight_orig": [1024, 1024, 3, 3],
    "head_0.conv_0.weight_u": [1024],
    "head_0.conv_0.weight_v": [9216],
    "head_0.norm_0.mlp_shared.0.weight": [128, 184, 3, 3],
    "head_0.norm_0.param_free_norm.running_mean": [1024],
    "head_0.norm_0.param_free_norm.num_batches_tracked": [],
    "G_middle_0.conv_1.bias": [1024],
    "G_middle_1.norm_1.mlp_gamma.weight": [1024, 128, 3, 3],
    "up_0.conv_0.weight_orig": [512, 1024, 3, 3],
    "up_0.conv_1.weight_orig": [512, 512, 3, 3],
    "up_0.conv_s.weight_orig": [512, 1024, 1, 1],
    "up_0.conv_s.weight_v": [1024],
    "up_0.norm_s.param_free_norm.running_var": [1024],
    "up_0.norm_1.mlp_beta.bias": [512],
    "up_1.conv_s.weight_orig": [256, 512, 1, 1],
    "up_2.conv_1.weight_orig": [128, 128, 3, 3],
    "up_3.conv_0.weight_orig": [64, 128, 3, 3],
    "up_3.norm_1.mlp_shared.0.bias": [128],
    "conv_img.weight": [3, 64, 3, 3],
    "conv_img.bias": [3],
}
"""Names and shapes of the released COCO-Stuff weights, as far as their authors' issues 7 and 55 and paper tell them."""

SHORTCUTS = {"up_0", "up_1", "up_2", "up_3"}
BLOCKS = SHORTCUTS | {"head_0", "G_middle_0", "G_middle_1"}


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A module whose statistics, too, are random, ready to generate."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        value.normal_(0, 0.2, generator=rng)
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
    return module.eval()


@cache
def random_state(channels: int = WITH_EDGES, width: int = 1) -> State:
    """Random weights, with spectral norms and statistics as training finds them: others saturate the image."""
    torch.manual_seed(0)
    network = GauGAN(channels, width)
    with torch.no_grad():
        for step in range(10):
            network(random_maps(channels, 32, step).float())
    return network.state_dict()


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def part(state: State, name: str) -> State:
    return {key.removeprefix(f"{name}."): value.double() for key, value in state.items() if key.startswith(f"{name}.")}


def reference_norm(state: State, x: Tensor, maps: Tensor) -> Tensor:
    """Equations 1 to 3: gamma(m) (h - mu) / sigma + beta(m), where the convolution gives gamma less one."""
    step = maps.shape[-1] // x.shape[-1]
    small = maps[:, :, ::step, ::step]
    hidden = F.conv2d(small, state["mlp_shared.0.weight"], state["mlp_shared.0.bias"], padding=1).clamp(min=0)
    gamma = F.conv2d(hidden, state["mlp_gamma.weight"], state["mlp_gamma.bias"], padding=1)
    beta = F.conv2d(hidden, state["mlp_beta.weight"], state["mlp_beta.bias"], padding=1)
    mean, variance = state["param_free_norm.running_mean"], state["param_free_norm.running_var"]
    normalized = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return (1 + gamma) * normalized + beta


def reference_conv(state: State, x: Tensor) -> Tensor:
    weight = state["weight_orig"]
    sigma = state["weight_u"] @ weight.reshape(len(weight), -1) @ state["weight_v"]
    return F.conv2d(x, weight / sigma, state.get("bias"), padding=weight.shape[-1] // 2)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def reference_block(state: State, x: Tensor, maps: Tensor) -> Tensor:
    """Appendix A, figure 2 (a): SPADE, leaky ReLU and 3x3 convolution, twice, and a learned skip connection."""
    skip = x
    if "conv_s.weight_orig" in state:
        skip = reference_conv(part(state, "conv_s"), reference_norm(part(state, "norm_s"), x, maps))
    for layer in "01":
        x = leaky(reference_norm(part(state, f"norm_{layer}"), x, maps))
        x = reference_conv(part(state, f"conv_{layer}"), x)
    return skip + x


def reference_gaugan(state: State, maps: Tensor) -> Tensor:
    step = 32
    fc, final = part(state, "fc"), part(state, "conv_img")
    x = F.conv2d(maps[:, :, ::step, ::step], fc["weight"], fc["bias"], padding=1)
    for name in ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3"):
        if name not in ("head_0", "G_middle_1"):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = reference_block(part(state, name), x, maps)
    return torch.tanh(F.conv2d(leaky(x), final["weight"], final["bias"], padding=1))


def random_maps(channels: int, side: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(2, channels, side, side, generator=rng) < 0.3).double()


@pytest.fixture(scope="module")
def full() -> GauGAN:
    with torch.device("meta"):
        return GauGAN()


def test_names_and_shapes_are_those_of_the_released_weights(full: GauGAN) -> None:
    state = full.state_dict()
    assert {name: list(state[name].shape) for name in FACTS} == FACTS
    assert {name.partition(".")[0] for name in state} == BLOCKS | {"fc", "conv_img"}
    assert {name.partition(".")[0] for name in state if ".conv_s." in name or ".norm_s." in name} == SHORTCUTS
    normalized = {name.removesuffix(".weight_v") for name in state if name.endswith(".weight_v")}
    convolutions = {f"{block}.conv_{n}" for block in BLOCKS for n in "01"} | {f"{block}.conv_s" for block in SHORTCUTS}
    assert normalized == convolutions
    assert not any(f"{name}.weight" in state for name in convolutions)
    assert not any(name.endswith(("conv_s.bias", "param_free_norm.weight")) for name in state)
    assert round(sum(value.numel() for value in full.parameters()) / 1e6, 1) == 97.5  # as its authors print it


def test_the_full_network_makes_images_of_256_px(full: GauGAN) -> None:
    maps = torch.empty(3, WITH_EDGES, 256, 256, device="meta")
    assert full.eval()(maps).shape == (3, 3, 256, 256)


def test_the_norm_is_that_of_the_paper() -> None:
    norm = lively(SpatialNorm(6, 5)).double()
    x, maps = torch.randn(2, 6, 8, 8, dtype=torch.double), random_maps(5, 32)
    with torch.no_grad():
        assert torch.allclose(norm(x, maps), reference_norm(norm.state_dict(), x, maps))


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (6, 3), (3, 6)])
def test_the_block_is_that_of_the_paper(inputs: int, outputs: int) -> None:
    block = lively(Block(inputs, outputs, 5)).double()
    x, maps = torch.randn(2, inputs, 8, 8, dtype=torch.double), random_maps(5, 32)
    with torch.no_grad():
        assert torch.allclose(block(x, maps), reference_block(block.state_dict(), x, maps))


@pytest.mark.parametrize("channels", [LABELS, WITH_EDGES])
def test_loaded_weights_generate_what_the_reference_does(channels: int, tmp_path: Path) -> None:
    state = random_state(channels, width=2)
    network = load_gaugan(saved(tmp_path / "latest_net_G.pth", state))
    assert (network.semantics, network.training) == (channels, False)
    maps = random_maps(channels, SMALL_PX)
    with torch.inference_mode():
        image = network(maps.float())
    expected = reference_gaugan(state, maps)
    assert expected.std() > 0.05
    assert expected.abs().quantile(0.9) < 0.95
    assert (image - expected).abs().max() < 1e-4


def test_half_precision_weights_and_files_of_old_torch_are_read(tmp_path: Path) -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in random_state().items()}
    torch.save(state, tmp_path / "half.pth", _use_new_zipfile_serialization=False)
    network = load_gaugan(tmp_path / "half.pth")
    assert torch.equal(network.fc.weight, state["fc.weight"].float())


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("fc.weight"), ["no weights of a GauGAN", "coco_pretrained"]),
        (without("up_3.conv_s.weight_v"), ["lacks 1", "up_3.conv_s.weight_v"]),
        (lambda state: state | {"up_4.conv_0.bias": torch.ones(1)}, ["unknown 1", "up_4.conv_0.bias"]),
        (lambda state: state | {"conv_img.bias": torch.ones(4)}, ["conv_img.bias", "[4]", "[3]"]),
        (lambda state: state | {"fc.bias": torch.full([16], np.nan)}, ["fc.bias", "not finite"]),
        (lambda state: state | {"fc.weight": torch.ones(16, 36, 3, 3)}, ["36 channels", "183", "184"]),
        (lambda state: state | {"fc.weight": torch.ones(16, 256)}, ["--use_vae"]),
        (lambda state: state | {"fc.weight": torch.ones(())}, ["no weights of a GauGAN"]),
        (lambda state: {"netG": state}, ["no state dict"]),
        (lambda state: state | {"fc.weight": Path("x")}, ["without unpickling"]),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    change: Callable[[State], Any], words: Sequence[str], tmp_path: Path
) -> None:
    path = saved(tmp_path / "latest_net_G.pth", change(random_state()))
    with pytest.raises(CheckpointError) as caught:
        load_gaugan(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "samples"
    write_samples(folder, beach_layouts())
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "latest_net_G.pth", random_state())


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 1-channel-wide network still takes seconds for 256 px."""
    monkeypatch.setattr(post_hoc, "SIDE_PX", SMALL_PX)


def pixels_of(path: Path, mode: str) -> Array:
    with Image.open(path) as picture:
        assert picture.mode == mode
        return np.array(picture)


@pytest.mark.usefixtures("_small")
def test_the_command_writes_images_label_maps_and_a_sheet(samples: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "gaugan"
    done = CliRunner().invoke(command, [str(samples), "--weights", str(weights), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "2 images" in done.output
    names = ["beach-0.png", "beach-1.png"]
    for folder in ("images", "spade/val_label", "spade/val_inst", "spade/val_img"):
        assert sorted(path.name for path in (out / folder).iterdir()) == names
    labels = pixels_of(out / "spade/val_label/beach-0.png", "L")
    assert labels.shape == (64, 64)
    assert [labels[y, x] for y, x in ((0, 0), (30, 0), (60, 0), (40, 20), (63, 63))] == [156, 154, 153, 0, UNKNOWN]
    instances = pixels_of(out / "spade/val_inst/beach-0.png", "L")
    assert instances[40, 23] != instances[40, 24]
    assert labels[40, 23] == labels[40, 24]
    assert (out / "spade/val_img/beach-0.png").read_bytes() == (samples / "beach-0.png").read_bytes()
    image = pixels_of(out / "images/beach-0.png", "RGB")
    maps = semantics(LabelMap(labels, instances), SMALL_PX, WITH_EDGES)[None].double()
    expected = (reference_gaugan(torch.load(weights), maps)[0].permute(1, 2, 0) + 1) / 2 * 255
    assert np.abs(image - (expected.numpy() - 0.5)).max() < 0.51  # levels are cut off
    assert pixels_of(out / "gaugan.png", "RGB").shape[0] > 2 * SMALL_PX
    provenance = provenance_of(out / "images/beach-1.png")
    assert provenance is not None
    assert provenance["layout"] == beach_layouts()[1].to_json()
    assert provenance["model"]["vocabulary"].startswith("coco-stuff")
    assert len(provenance["gaugan"]["weights_sha256"]) == 64


@pytest.mark.usefixtures("_small")
def test_nothing_is_generated_twice(samples: Path, weights: Path, tmp_path: Path) -> None:
    def written() -> set[str]:
        """Generate what is missing; the names of the files that were written."""
        before = {path: path.stat().st_ino for path in out.rglob("*.png")}
        post_hoc.generate_from_masks(samples, source, out)
        after = {path: path.stat().st_ino for path in out.rglob("*.png") if path.name != "gaugan.png"}
        return {str(path.relative_to(out)) for path, inode in after.items() if before.get(path) != inode}

    out, source = tmp_path / "out", weights
    assert len(written()) == 8
    assert written() == set()
    lost = out / "images/beach-1.png"
    whole = lost.read_bytes()
    lost.write_bytes(whole[:200])  # a process was killed
    assert written() == {"images/beach-1.png"}
    assert lost.read_bytes() == whole
    source = saved(tmp_path / "other.pth", random_state(LABELS))
    assert {name for name in written() if name.startswith("images")} == {"images/beach-0.png", "images/beach-1.png"}
    assert lost.read_bytes() != whole


def test_samples_of_another_vocabulary_are_refused(weights: Path, tmp_path: Path) -> None:
    layout = Layout.parse({"objects": [{"label": "sky", "box": [0, 0, 1, 1]}]}, "scene")
    write_samples(tmp_path / "samples", [layout], "scenes")
    with pytest.raises(EvaluationError, match=r"scene\.png: its labels are those of scenes.*coco-stuff"):
        post_hoc.generate_from_masks(tmp_path / "samples", weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_sample_set_are_refused(samples: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no object maps.*`generate`"):
        post_hoc.generate_from_masks(tmp_path / "nowhere", weights, tmp_path / "out")
    folder = tmp_path / "samples"
    write_samples(folder, beach_layouts())
    (folder / "beach-1.png").unlink()
    with pytest.raises(EvaluationError, match=r"beach-1\.png: is not there"):
        post_hoc.generate_from_masks(folder, weights, tmp_path / "out")
    (folder / "beach-0.objects.png").replace(folder / "beach-1.objects.png")
    (folder / "beach-1.png").write_bytes((samples / "beach-1.png").read_bytes())
    with pytest.raises(EvaluationError, match=r"not that of beach-1\.objects\.png"):
        post_hoc.generate_from_masks(folder, weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_mistakes_end_in_one_line(cli: Cli, samples: Path, tmp_path: Path) -> None:
    done = cli("gaugan", samples, "--weights", tmp_path / "none.pth", "--out", tmp_path / "out")
    fails_in_one_line(done, ["none.pth", "no such file"])
    assert not (tmp_path / "out").exists()
