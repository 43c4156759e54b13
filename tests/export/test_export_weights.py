"""Weights that cannot be exported: they are named before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import fails_in_one_line, run_cli
from lostgan_export import publish
from lostgan_serve.errors import CheckpointError, LostganError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import Checkpoint, random_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    return random_checkpoint("v1-64", Vocabulary.built_in("scenes"), seed=0, ch=2)


def test_weights_that_are_not_finite_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with torch.no_grad():
        checkpoint.generator.final_norm.weight[1] = float("nan")
    with pytest.raises(CheckpointError, match=r"^final_norm\.weight: the generator's weights are not finite"):
        publish(checkpoint, tmp_path / "repository")
    save_checkpoint(tmp_path / "bad.safetensors", checkpoint)
    options = ("--checkpoint", tmp_path / "bad.safetensors", "--repository", tmp_path / "repository")
    done = run_cli("export", *options)
    fails_in_one_line(done, ["bad.safetensors: final_norm.weight: holds values that are not finite"])
    assert not (tmp_path / "repository").exists()


def test_weights_too_large_for_a_precision_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    bias = checkpoint.generator.to_rgb.bias
    assert bias is not None
    with torch.no_grad():
        bias[0] = 1e6
    with pytest.raises(LostganError, match=r"^--precision fp16: to_rgb\.bias: has weights too large for it"):
        publish(checkpoint, tmp_path / "repository", precision="fp16")
    assert not (tmp_path / "repository").exists()
