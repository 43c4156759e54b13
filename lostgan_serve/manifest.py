"""Facts of an exported model. They stand beside model.onnx, in the file's own metadata and, in part, in the Triton
configuration, so that no part of the run time has to be told."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lostgan_serve.contract import MAX_BATCH, MAX_LABELS, MAX_SLOTS, RESOLUTIONS
from lostgan_serve.errors import ModelError, VocabularyError
from lostgan_serve.vocabulary import Vocabulary

METADATA_KEY = "lostgan_serve.manifest"
"""Key of the manifest, as JSON, in an ONNX file's metadata_props."""

MAX_MANIFEST_BYTES = 16 << 20
"""The most bytes of a manifest: `contract.MAX_LABELS` long labels."""

Precision = Literal["fp32", "fp16", "bf16"]


class Parity(BaseModel):
    """How far the exported model was from the unfused PyTorch generator on the layouts that export compared.

    image and masks: levels of 255, at the worst pixel and on average. image_psnr_db: of the images, 100 at most.
    object_map: share of pixels that differ, 0 to 1. runtime: what ran the exported graph.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    layouts: int
    image_max: int
    image_mean: float
    image_psnr_db: float | None = None
    masks_max: int
    masks_mean: float
    object_map_differs: float
    runtime: str = "ONNX Runtime"


_IDENTITY = {"variant", "resolution", "slots", "precision", "mask_stages", "weights", "seed", "checkpoint_sha256"}


class Manifest(BaseModel):
    """Facts of one exported model. Fields that a newer version adds are ignored.

    variant: a LostGAN variant such as "v2-512". resolution: image side in px. slots: object slots. max_batch: the
    largest batch a server forms. weights: "trained", or "untrained" for random ones. checkpoint_sha256: of the file
    the weights came from; None for random weights. seed: of random weights. tools: versions of the programs that made
    the file. mask_stages: the last stage of the generator that refines masks, 0 for none; None stands for all stages.
    onnx_sha256: of model.onnx; None in that file's own metadata, which cannot hold it, and in manifests of exports that
    did not write it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    variant: str
    resolution: int
    slots: int = Field(ge=1, le=MAX_SLOTS)
    max_batch: int = Field(ge=1, le=MAX_BATCH)
    vocabulary: Vocabulary
    precision: Precision = "fp32"
    mask_stages: int | None = Field(default=None, ge=0)
    weights: Literal["trained", "untrained"]
    seed: int | None = None
    checkpoint_sha256: str | None = None
    tools: dict[str, str] = {}
    parity: Parity | None = None
    onnx_sha256: str | None = None

    @field_validator("resolution")
    @classmethod
    def _known_resolution(cls, value: int) -> int:
        if value not in RESOLUTIONS:
            raise ValueError(f"resolution must be one of {RESOLUTIONS}")
        return value

    @field_validator("vocabulary", mode="before")
    @classmethod
    def _not_too_many_labels(cls, value: Any) -> Any:
        """Count them before they are compared with one another."""
        labels = value.get("labels") if isinstance(value, dict) else None
        if isinstance(labels, list | tuple) and len(labels) > MAX_LABELS:
            raise ValueError(f"a vocabulary has {MAX_LABELS} labels at most")
        return value

    @model_validator(mode="after")
    def _room_for_objects(self) -> Manifest:
        if self.capacity < 1:
            raise ValueError("there must be a slot for an object, besides the background's")
        return self

    @property
    def capacity(self) -> int:
        """How many objects a layout may have: the slots, less the background object's."""
        return self.slots - self.vocabulary.background

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Raises ModelError naming `source` where `text` is no manifest."""
        return cls._checked(source, lambda: cls.model_validate_json(text))

    def identity(self) -> dict[str, Any]:
        """The facts on which a picture depends besides its layout."""
        labels = "\n".join(self.vocabulary.labels)
        vocabulary = f"{self.vocabulary.name} {hashlib.sha256(labels.encode()).hexdigest()[:16]}"
        return self.model_dump(include=_IDENTITY) | {"vocabulary": vocabulary}

    def serving_parameters(self) -> dict[str, str]:
        """The part of the manifest that a client needs, as the string parameters of a Triton configuration."""
        facts = self.identity() | {"max_batch": self.max_batch}
        return {name: str(fact) for name, fact in facts.items() if fact is not None} | {
            "vocabulary": json.dumps(
                {
                    "name": self.vocabulary.name,
                    "labels": self.vocabulary.labels,
                    "slots": self.vocabulary.slots,
                    "background": self.vocabulary.background,
                }
            ),
        }

    @classmethod
    def from_serving_parameters(cls, parameters: dict[str, str], source: str) -> Manifest:
        """Inverse of `serving_parameters`. Raises ModelError naming `source`."""
        known: dict[str, Any] = {key: value for key, value in parameters.items() if key in cls.model_fields}

        def build() -> Manifest:
            known["vocabulary"] = json.loads(known["vocabulary"])
            return cls.model_validate(known)

        return cls._checked(source, build)

    @staticmethod
    def _checked(source: str, build: Any) -> Manifest:
        try:
            return build()  # type: ignore[no-any-return]
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError, VocabularyError) as error:
            raise ModelError(
                f"{source}: not a lostgan-serve model ({type(error).__name__}); make one with: lostgan-serve export"
            ) from error
