"""Facts that options of commands and the run time share. Importing this module costs nothing, so that help is fast."""

from __future__ import annotations

HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
"""The ports at which a Triton server answers unless it is told otherwise."""

EDITOR_PORT = 8765
"""The port at which the editor answers unless it is told otherwise."""

RUNNER_VARIABLE = "LOSTGAN_SERVE_RUNNER"
"""Environment variable that names the runner, as `lostgan-serve generate --runner` does."""

MAX_SEED = 2**63 - 1

PICTURES = ("image", "object_map", "overlay", "masks", "sheet")
"""The kinds of pictures that a SampleSet can hold: four of each layout, and one sheet of the first eight layouts."""

DEFAULT_PICTURES = ("image", "object_map", "overlay", "sheet")

VARIANTS = ("v1-64", "v1-128", "v2-128", "v2-256", "v2-512")
"""The generators of the paper, and one of 512 px after their manner."""

DATA_FORMATS = ("coco", "yolo", "yolo-seg", "webdataset")
"""The formats of a synthesized data set."""

IMAGE_KINDS = ("png", "webp", "jpeg")
"""The kinds of image files in a synthesized data set."""

BOXES = ("drawn", "tight")
"""The boxes that an annotation can state: the layout's, and the one around the object's mask."""
