"""The Diversity Score: LPIPS as its package has it, and a distance that any machine can measure."""

from __future__ import annotations

import lpips
import pytest
import torch
from torchvision.models import alexnet

from lostgan_evaluate.features.lite import LiteExtractor
from lostgan_evaluate.metrics.diversity import lpips_distance, maps_distance
from lostgan_evaluate.weights import WeightFiles
from weight_files import weight_files

IMAGES = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def alexnet_files(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    torch.manual_seed(1)
    return weight_files(tmp_path_factory.mktemp("alexnet"), "alexnet", alexnet(weights=None).state_dict())


def test_ds_is_lpips(alexnet_files: WeightFiles) -> None:
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = alexnet_files.state("alexnet")
    for part in theirs.net.children():
        part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
    a, b = IMAGES[:2], IMAGES[2:]
    with torch.no_grad():
        expected = theirs(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten()
        found = lpips_distance(alexnet_files)(a, b)
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(found.min()) > 0


def test_distances_grow_with_the_difference(alexnet_files: WeightFiles) -> None:
    lite = LiteExtractor()
    near = (IMAGES.float() * 0.97 + 4).byte()
    for distance in (lpips_distance(alexnet_files), maps_distance(lite)):
        with torch.no_grad():
            same, little, much = (distance(IMAGES, other) for other in (IMAGES, near, IMAGES.flip(0)))
        assert float(same.abs().max()) < 1e-6
        assert bool((little > 0).all())
        assert bool((much > 5 * little).all())
