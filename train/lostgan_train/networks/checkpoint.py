"""Generator checkpoints for release: one safetensors file whose metadata holds the config and the vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lostgan_serve.errors import CheckpointError, VocabularyError
from lostgan_serve.files import write_file
from lostgan_serve.manifest import Manifest, Precision
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.generator import Generator, GeneratorConfig, initialize

_FORMAT = "lostgan-serve generator 1"


@dataclass(frozen=True)
class Checkpoint:
    """A generator in evaluation mode and what is known of it.

    weights: "untrained" for random ones, drawn from `seed`. sha256: of the file that it was loaded from.
    """

    generator: Generator
    vocabulary: Vocabulary
    weights: Literal["trained", "untrained"]
    seed: int | None = None
    sha256: str | None = None

    def manifest(
        self, slots: int, max_batch: int, precision: Precision = "fp32", tools: Mapping[str, str] | None = None
    ) -> Manifest:
        """Of a model made from it. tools: versions of what makes it."""
        config = self.generator.config
        return Manifest(
            variant=config.variant,
            resolution=config.resolution,
            slots=slots,
            max_batch=max_batch,
            precision=precision,
            vocabulary=self.vocabulary,
            weights=self.weights,
            seed=self.seed,
            checkpoint_sha256=self.sha256,
            tools=dict(tools or {}),
        )


def random_checkpoint(variant: str, vocabulary: Vocabulary, seed: int, ch: int = 64) -> Checkpoint:
    """An untrained generator, a function of `seed`: it has the speed of a trained one and paints noise."""
    generator = Generator(GeneratorConfig(variant, len(vocabulary), ch, mask_classes=len(vocabulary)))
    initialize(generator, seed)
    return Checkpoint(generator.eval(), vocabulary, "untrained", seed)


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write one safetensors file, whole or not at all. half: weights as fp16, which `load_checkpoint` turns into fp32
    again. Raises OutputError."""
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(asdict(checkpoint.generator.config)),
        "vocabulary": json.dumps(asdict(checkpoint.vocabulary)),
        "weights": checkpoint.weights,
        "seed": json.dumps(checkpoint.seed),
    }
    state = {key: value.contiguous() for key, value in checkpoint.generator.state_dict().items()}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    write_file(path, save(state, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote; every key and shape must fit. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; `lostgan-serve import` makes one from released weights")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated, or not a safetensors file; fetch it again, or turn a .pth file into one with: "
            "lostgan-serve import"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not one of lostgan-serve's generators")
    config, known = _parse(path, metadata)
    try:
        with torch.device("meta"):  # shapes only: a damaged config must not allocate what no machine has
            Generator(config).load_state_dict(state, assign=True)
        generator = Generator(config)
        generator.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split("\n")[:2][-1:]).strip()
        raise CheckpointError(f"{path}: its weights do not fit its own config ({reason}); fetch it again") from error
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise CheckpointError(f"{path}: holds weights that are not finite; take an earlier checkpoint of that run")
    return Checkpoint(generator.eval(), *known, hashlib.sha256(path.read_bytes()).hexdigest())


_Known = tuple[Vocabulary, Literal["trained", "untrained"], "int | None"]


def _parse(path: Path, metadata: dict[str, str]) -> tuple[GeneratorConfig, _Known]:
    """The config, and a `Checkpoint`'s vocabulary, weights and seed. Raises CheckpointError."""
    try:
        config = GeneratorConfig(**json.loads(metadata["config"]))
        vocabulary = TypeAdapter(Vocabulary).validate_json(metadata["vocabulary"])
        weights: Literal["trained", "untrained"] = TypeAdapter(Literal["trained", "untrained"]).validate_python(
            metadata["weights"]
        )
        seed = TypeAdapter(int | None).validate_json(metadata["seed"])
        if len(vocabulary) != config.num_labels:
            raise ValueError(f"{len(vocabulary)} labels in the vocabulary, {config.num_labels} in the config")
    except (KeyError, ValueError, TypeError, VocabularyError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: its metadata is damaged ({reason}); fetch it again") from error
    return config, (vocabulary, weights, seed if weights == "untrained" else None)
