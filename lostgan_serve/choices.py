"""Facts that options of commands and the run time share. Importing this module costs nothing, so that help is fast."""

from __future__ import annotations

MAX_SEED = 2**63 - 1

PICTURES = ("image", "object_map", "overlay", "masks", "sheet")
"""The kinds of pictures that a SampleSet can hold: four of each layout, and one sheet of the first eight layouts."""

DEFAULT_PICTURES = ("image", "object_map", "overlay", "sheet")
