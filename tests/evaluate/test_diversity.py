"""The Diversity Score: LPIPS where its weights are, and a distance of another name everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import alexnet

from lostgan_evaluate.features.lite import LiteExtractor
from lostgan_evaluate.metrics.diversity import METRIC, Distance, lpips_distance, maps_distance
from lostgan_evaluate.protocols import default_protocol
from lostgan_evaluate.subject import Sample, Subject
from lostgan_evaluate.weights import WeightFiles
from lostgan_serve.errors import EvaluationError
from lostgan_serve.progress import Progress
from measuring import tools_in
from weight_files import weight_files

SIDE = 64
IMAGES = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    """AlexNet's convolutions, which are all that LPIPS looks at, with random values."""
    torch.manual_seed(1)
    state = {key: value for key, value in alexnet(weights=None).state_dict().items() if key.startswith("features")}
    return weight_files(tmp_path_factory.mktemp("alexnet"), "alexnet", state)


@pytest.fixture(scope="module")
def theirs(weights: WeightFiles) -> lpips.LPIPS:
    """The package's own network with the same weights."""
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = weights.state("alexnet")
    for part in network.net.children():
        part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
    return network


def lpips_of(network: lpips.LPIPS, a: Tensor, b: Tensor) -> list[float]:
    with torch.no_grad():
        found: list[float] = network(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten().tolist()
    return found


def test_the_distance_is_lpips(weights: WeightFiles, theirs: lpips.LPIPS) -> None:
    found = lpips_distance(weights)(IMAGES[:2], IMAGES[2:])
    assert found.tolist() == pytest.approx(lpips_of(theirs, IMAGES[:2], IMAGES[2:]), rel=1e-5)
    assert float(found.min()) > 0


def test_distances_grow_with_the_difference(weights: WeightFiles) -> None:
    near = (IMAGES.float() * 0.97 + 4).byte()
    distances: list[Distance] = [lpips_distance(weights), maps_distance(LiteExtractor())]
    for distance in distances:
        same, little, much = (distance(IMAGES, other) for other in (IMAGES, near, IMAGES.flip(0)))
        assert float(same.abs().max()) < 1e-6
        assert bool((little > 0).all())
        assert bool((much > 5 * little).all())


class Maps:
    """Two stages: two channels at one place, and one channel at two places."""

    def maps(self, images: Tensor) -> list[Tensor]:
        x = images.float()
        return [x[:, :2, :1, :1], x[:, 2:, :1, :2]]


def test_the_distance_of_maps_by_hand() -> None:
    a, b = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    a[0, :2, 0, 0], b[0, :2, 0, 0] = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])  # (0.6, 0.8), (0.8, 0.6)
    a[0, 2, 0], b[0, 2, 0] = torch.tensor([7.0, 0.0]), torch.tensor([1.0, 5.0])  # (1, 0), (1, 1): lengths do not count
    stages = (2 * 0.2**2, (0 + 1) / 2)
    assert maps_distance(Maps())(a, b).tolist() == pytest.approx([sum(stages) / 2])


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Three styles of 20 layouts, more than one batch, and one style of layout 20. The first two styles are the same in
    layout 0, and differ more with each further one; the third is black."""
    samples = []
    for place in range(21):
        noise = IMAGES[place % 4].float()
        second = noise + (IMAGES[(place + 1) % 4].float() - noise) * place / 20
        for style, image in enumerate((noise, second, torch.zeros_like(noise))[: 3 if place < 20 else 1]):
            file = tmp_path / f"{place}.seed{style}.png"
            Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(file)
            samples.append(Sample(file, place, style))
    return Subject("styles", tuple(samples), (), default_protocol("scenes", SIDE))


def pixels_of(subject: Subject, style: int) -> Tensor:
    files = [sample.file for sample in subject.samples if sample.style == style and sample.place != 20]
    return torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


def test_the_score_is_of_the_first_two_styles_over_layouts(
    subject: Subject, weights: WeightFiles, theirs: lpips.LPIPS, tmp_path: Path
) -> None:
    tools = replace(tools_in(tmp_path), weights=weights)
    assert METRIC.why_not(subject, tools) is None
    ds, lite = METRIC.measure(subject, tools).scores
    expected = lpips_of(theirs, pixels_of(subject, 0), pixels_of(subject, 1))
    assert expected[0] == 0
    assert (ds.name, ds.better) == ("ds", "higher")
    assert (ds.value, ds.spread) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-4)
    assert ds.facts == {
        "layouts": 20, "pairs": "the first two styles of each layout", "spread": "over layouts", "side_px": SIDE
    }  # fmt: skip
    assert (lite.name, lite.facts["layouts"], lite.facts["side_px"]) == ("ds_efficientnet_lite0", 20, 224)
    assert lite.value > 0


def test_without_weights_nothing_is_called_ds(subject: Subject, tmp_path: Path) -> None:
    tools = replace(tools_in(tmp_path), progress=(heard := Notes()))
    (score,) = METRIC.measure(subject, tools).scores
    assert score.name == "ds_efficientnet_lite0"
    (line,) = heard.lines
    assert line.startswith("note: no ds (LPIPS): needs alexnet-owt-7be5be79.pth")


def test_one_style_has_no_diversity(subject: Subject, tmp_path: Path) -> None:
    single = replace(subject, samples=tuple(subject.first_styles()))
    assert "several styles" in (METRIC.why_not(single, tools_in(tmp_path)) or "")


def test_weights_of_another_network(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not the weights of AlexNet"):
        lpips_distance(weight_files(tmp_path, "alexnet", {"features.0.weight": torch.zeros(1)}))
