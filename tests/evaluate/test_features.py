"""Extractors: the networks that are named, from local files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import alexnet

from lostgan_evaluate.features.registry import FOR_DISTANCES, default_extractors, open_extractor
from lostgan_evaluate.weights import KNOWN, WeightFiles
from lostgan_serve.errors import EvaluationError
from lostgan_train.perceptual import efficientnet_lite0
from weight_files import weight_files

IMAGES = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def alexnet_files(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    torch.manual_seed(1)
    return weight_files(tmp_path_factory.mktemp("alexnet"), "alexnet", alexnet(weights=None).state_dict())


def test_lite_gives_the_network_s_features_and_classes() -> None:
    images = torch.nn.functional.interpolate(IMAGES.float(), (224, 224)).byte()
    extractor, network = open_extractor("efficientnet-lite0", WeightFiles()), efficientnet_lite0()
    found = extractor.features(images)
    with torch.no_grad():
        logits = network((images.float() - 127) / 128)
    assert found["features"].shape == (4, 1280)
    assert torch.allclose(found["logits"], logits, atol=1e-3)
    assert torch.allclose(network.classes(found["features"]), logits, atol=1e-3)


@pytest.mark.slow
def test_inception_is_torch_fidelity_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference_file = tmp_path / "reference.pth"
    with pytest.MonkeyPatch.context() as patch:  # a network with random weights, without any file
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.save({}, reference_file)
        reference = FeatureExtractorInceptionV3("r", ["2048", "logits_unbiased"], str(reference_file))
    weights = weight_files(tmp_path, "inception", reference.state_dict())
    assert default_extractors(weights) == FOR_DISTANCES
    found = open_extractor("inception", weights).features(IMAGES)
    features, logits = reference(IMAGES)
    assert float(features.std()) > 0
    assert torch.equal(found["features"], features)
    assert torch.equal(found["logits"], logits)


def test_alexnet_is_torchvision_s(alexnet_files: WeightFiles) -> None:
    network = alexnet(weights=None)
    network.load_state_dict(alexnet_files.state("alexnet"))
    extractor = open_extractor("alexnet", alexnet_files)
    images = torch.nn.functional.interpolate(IMAGES.float(), (256, 256)).byte()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        pool5 = network.eval().features((images / 255 - mean) / std)
    found = extractor.features(images)
    assert list(found) == ["features"]
    assert found["features"].shape == (4, 256 * 7 * 7)
    assert torch.allclose(found["features"], pool5.flatten(1), atol=1e-5)


def test_extractors_that_cannot_be_opened(tmp_path: Path) -> None:
    assert default_extractors(WeightFiles()) == default_extractors(WeightFiles(tmp_path)) == ("efficientnet-lite0",)
    with pytest.raises(EvaluationError, match="there is no 'vgg'; choose from efficientnet-lite0, inception"):
        open_extractor("vgg", WeightFiles())
    with pytest.raises(EvaluationError, match=r"inception: needs weights-inception-.*; give the folder"):
        open_extractor("inception", WeightFiles())
    other = weight_files(tmp_path, "alexnet", {"features.0.weight": torch.zeros(1)})
    with pytest.raises(EvaluationError, match="not the weights of AlexNet"):
        open_extractor("alexnet", other)


def test_a_damaged_file_is_told_of_and_not_passed_over(tmp_path: Path) -> None:
    """Or a download that broke off would take FID out of the results without a word."""
    (tmp_path / KNOWN["inception"].file).write_bytes(b"half of it")
    damaged = WeightFiles(tmp_path)
    assert default_extractors(damaged) == FOR_DISTANCES
    with pytest.raises(EvaluationError, match=r"inception: .*SHA-256 begins with .*, not 6726825d; fetch it again"):
        open_extractor("inception", damaged)
