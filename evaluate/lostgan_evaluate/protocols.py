"""Protocols by name: everything that a number depends on besides the model and the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lostgan_evaluate.images import Reading
from lostgan_serve.contract import RESOLUTIONS
from lostgan_serve.errors import EvaluationError

CropClassifier = Literal["resnet101", "resnet18"]


@dataclass(frozen=True)
class Protocol:
    """How images are generated and read.

    data: the vocabulary of the data that it is meant for. split: the part of the data. samples: styles of each layout.
    reading: see `Reading`. truncation: of style codes, 2.0 in the original's sampling. score_splits: parts of which the
    Inception Score is the mean. crop_classifier: the network of CAS; the paper's is resnet101 (section 3.1.2), and any
    other is named in the score.
    """

    name: str
    data: str
    split: str
    samples: int
    reading: Reading
    truncation: float = 2.0
    score_splits: int = 5
    crop_classifier: CropClassifier = "resnet101"

    def facts(self) -> dict[str, Any]:
        """The fields by name, those of `reading` among them, and the resolution."""
        return asdict(self) | {"resolution_px": self.resolution_px}

    @property
    def resolution_px(self) -> int:
        """The side at which images are compared."""
        return self.reading.side_px


OWN = "own"
"""Data of protocols for sets of one's own in COCO's format, which are all one split."""


def _protocols() -> dict[str, Protocol]:
    made = []
    for side_px in RESOLUTIONS:
        reading = Reading(side_px)
        made += [
            Protocol(f"paper-coco-{side_px}", "coco-stuff", "val", 5, reading),
            Protocol(f"paper-vg-{side_px}", "visual-genome", "test", 1, reading),
            Protocol(f"scenes-{side_px}", "scenes", "val", 5, reading, crop_classifier="resnet18"),
            Protocol(f"{OWN}-{side_px}", OWN, "train", 5, reading, crop_classifier="resnet18"),
        ]
    made += [
        replace(plain, name=f"{plain.name}-stretched", reading=replace(plain.reading, levels="stretched"))
        for plain in made
        if plain.name.startswith("paper-")
    ]
    return {protocol.name: protocol for protocol in made}


PROTOCOLS = _protocols()
"""The protocols by name: of the paper's section 3 on COCO-Stuff and Visual Genome, with levels as they are and
stretched as the original's sample writer did, and of the built-in scenes and sets of one's own."""


def protocol_named(name: str) -> Protocol:
    """A protocol. Raises EvaluationError naming those there are."""
    if name not in PROTOCOLS:
        raise EvaluationError(f"--protocol {name!r}: there is none of that name; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def default_protocol(data: str, resolution_px: int) -> Protocol:
    """The protocol for data of a vocabulary, read at a resolution."""
    fitting = [p for p in PROTOCOLS.values() if p.data in (data, OWN) and p.resolution_px == resolution_px]
    if not fitting:
        raise EvaluationError(f"no protocol is for images of {resolution_px} px; name one with --protocol")
    return fitting[0]
