"""The bundled checkpoints, in a clone as in an installed package. Their vocabulary is
`lostgan_serve.vocabulary.BUNDLED_VOCABULARY`."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from lostgan_serve.errors import CheckpointError

_PACKAGE = "lostgan_checkpoints"  # the folder checkpoints/ of a clone
_FILE = re.compile(r"scenes-(\d+)\.safetensors")


def bundled_checkpoint(resolution: int) -> Path:
    """The checkpoint of the bundled model of `resolution` px. Raises CheckpointError where there is none."""
    known = _files()
    if resolution not in known:
        resolutions = ", ".join(map(str, sorted(known))) or "none"
        raise CheckpointError(
            f"there are no bundled weights of {resolution} px (of {resolutions} px there are); import released ones "
            "with `lostgan-serve import` and name them with --checkpoint, or give --random-weights 0 for an untrained "
            "generator"
        )
    return known[resolution]


def _files() -> dict[int, Path]:
    """The bundled checkpoints by their resolutions."""
    files = [Path(str(file)) for file in resources.files(_PACKAGE).iterdir()]
    matches = [(file, _FILE.fullmatch(file.name)) for file in files]
    return {int(match[1]): file for file, match in matches if match}
