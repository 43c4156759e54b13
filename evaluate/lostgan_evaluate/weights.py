"""Files of weights that nobody may redistribute here: what is needed, where it comes from, and what is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightFiles:
    """The weights in a folder that the user filled. folder: None where there is none."""

    folder: Path | None = None
