"""Checkpoints for release: one safetensors file whose metadata holds the network's config and its vocabulary.

The same weights give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Generic, Literal, TypeVar

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lostgan_serve.contract import MAX_LABELS
from lostgan_serve.errors import CheckpointError, InputError, VocabularyError
from lostgan_serve.files import reading, write_file
from lostgan_serve.manifest import Manifest, Precision
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.discriminator import Discriminator, DiscriminatorConfig
from lostgan_train.networks.generator import Generator, GeneratorConfig
from lostgan_train.networks.layers import initialize

Weights = Literal["trained", "untrained"]
C = TypeVar("C", GeneratorConfig, DiscriminatorConfig)
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """A generator in evaluation mode and its origin.

    weights: "untrained" for random ones, drawn from `seed`. sha256: of the file that it was loaded from.
    """

    generator: Generator
    vocabulary: Vocabulary
    weights: Weights
    seed: int | None = None
    sha256: str | None = None

    def manifest(
        self,
        slots: int,
        max_batch: int,
        precision: Precision = "fp32",
        tools: Mapping[str, str] | None = None,
        mask_stages: int | None = None,
    ) -> Manifest:
        """Make the manifest of a model made from it. tools: versions of the programs that make it. mask_stages: the
        last stage that refines masks, of 0 to `config.mask_stages`; None stands for all."""
        config = self.generator.config
        return Manifest(
            variant=config.variant,
            resolution=config.resolution,
            slots=slots,
            max_batch=max_batch,
            precision=precision,
            mask_stages=mask_stages,
            vocabulary=self.vocabulary,
            weights=self.weights,
            seed=self.seed,
            checkpoint_sha256=self.sha256,
            tools=dict(tools or {}),
        )


@dataclass(frozen=True)
class DiscriminatorCheckpoint:
    """A discriminator and the labels that it knows."""

    discriminator: Discriminator
    vocabulary: Vocabulary


def random_checkpoint(variant: str, vocabulary: Vocabulary, seed: int, ch: int = 64) -> Checkpoint:
    """Make an untrained generator, a function of `seed`: it has the speed of a trained one and generates noise."""
    generator = Generator(GeneratorConfig(variant, len(vocabulary), ch, mask_classes=len(vocabulary)))
    initialize(generator, seed)
    return Checkpoint(generator.eval(), vocabulary, "untrained", seed)


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write a generator's file, whole or not at all.

    half: weights as fp16, which `load_checkpoint` turns into fp32 again. Raises OutputError.
    """
    origin = {"weights": checkpoint.weights, "seed": json.dumps(checkpoint.seed)}
    _write(path, _GENERATOR, checkpoint.generator, checkpoint.generator.config, checkpoint.vocabulary, origin, half)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote; every key and shape must fit. Raises CheckpointError, and InputError
    where it is missing or may not be read."""
    generator, vocabulary, metadata = _read(path, _GENERATOR)
    with _naming_damage(path):
        weights: Weights = TypeAdapter(Weights).validate_python(metadata["weights"])
        seed = TypeAdapter(int | None).validate_json(metadata["seed"])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(generator, vocabulary, weights, seed if weights == "untrained" else None, sha256)


def save_discriminator(path: Path, checkpoint: DiscriminatorCheckpoint, *, half: bool = False) -> None:
    """Write a discriminator's file, whole or not at all.

    half: weights as fp16, which `load_discriminator` turns into fp32 again. Raises OutputError.
    """
    network = checkpoint.discriminator
    _write(path, _DISCRIMINATOR, network, network.config, checkpoint.vocabulary, {}, half)


def load_discriminator(path: Path) -> DiscriminatorCheckpoint:
    """Read a file that `save_discriminator` wrote; every key and shape must fit. Raises CheckpointError, and InputError
    where it is missing or may not be read."""
    discriminator, vocabulary, _ = _read(path, _DISCRIMINATOR)
    return DiscriminatorCheckpoint(discriminator, vocabulary)


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None where there is none."""
    return next((name for name, value in tensors if not bool(torch.isfinite(value).all())), None)


_LARGEST_CH, _LARGEST = 128, 10_000
_REASON = 300  # characters
"""Sizes in a config up to which a network is built at once: less than two GiB. The check of larger ones takes seconds,
since spectral norm's power iterations are slow without data."""


@dataclass(frozen=True)
class _Kind(Generic[C, N]):
    """A kind of network that has files of its own. origin: where a user gets one."""

    name: str
    config: type[C]
    network: Callable[[C], N]
    origin: str

    @property
    def format(self) -> str:
        return f"lostgan-serve {self.name} 1"


_GENERATOR: _Kind[GeneratorConfig, Generator] = _Kind(
    "generator", GeneratorConfig, Generator, "`lostgan-serve import` makes one from released weights"
)
_DISCRIMINATOR: _Kind[DiscriminatorConfig, Discriminator] = _Kind(
    "discriminator", DiscriminatorConfig, Discriminator, "`lostgan-serve train` makes one"
)


def _write(
    path: Path, kind: _Kind[C, N], network: N, config: C, vocabulary: Vocabulary, more: Mapping[str, str], half: bool
) -> None:
    """Write a network and its metadata. more: metadata of this kind alone. Raises OutputError."""
    metadata = {
        "format": kind.format,
        "config": json.dumps(asdict(config)),
        "vocabulary": json.dumps(asdict(vocabulary)),
        **more,
    }
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    write_file(path, _sort_header(save(state, metadata)))


def _sort_header(file: bytes) -> bytes:
    """Sort the JSON header of a safetensors file, whose metadata the library writes in random order.

    The format: the header's length as 8 bytes, the header padded with spaces to a multiple of 8 bytes, the tensors.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(file)[end:]))


def _read(path: Path, kind: _Kind[C, N]) -> tuple[N, Vocabulary, dict[str, str]]:
    """Read a network of that kind, its vocabulary, and all of the file's metadata. Raises CheckpointError."""
    metadata, state = _open(path, kind.origin)
    found = metadata.get("format", "not stated")
    if found != kind.format:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of lostgan-serve's {kind.name}s (its format: {found})"
        )
    with _naming_damage(path):
        config = kind.config(**json.loads(metadata["config"]))
        if len(json.loads(metadata["vocabulary"])["labels"]) > MAX_LABELS:  # before they are compared with one another
            raise ValueError(f"over {MAX_LABELS} labels in the vocabulary")
        vocabulary = TypeAdapter(Vocabulary).validate_json(metadata["vocabulary"])
        if len(vocabulary) != config.num_labels:
            raise ValueError(f"{len(vocabulary)} labels in the vocabulary, {config.num_labels} in the config")
    try:
        if config.ch > _LARGEST_CH or any(size > _LARGEST for size in vars(config).values() if isinstance(size, int)):
            with torch.device("meta"):  # shapes only: a damaged config must not allocate what no machine has
                kind.network(config).load_state_dict(state, assign=True)
        network = kind.network(config)
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = shorten(" ".join(str(error).split("\n")[:2][-1:]), _REASON)
        raise CheckpointError(f"{path}: its weights do not fit its own config ({reason}); fetch it again") from error
    if (name := first_not_finite(state.items())) is not None:
        raise CheckpointError(
            f"{path}: {name}: holds values that are not finite; take an earlier checkpoint of that run"
        )
    return network.eval(), vocabulary, metadata


def _open(path: Path, origin: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file. Raises InputError and CheckpointError, which tell
    `origin`."""
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint; {origin}")
        path.open("rb").close()  # so that one that may not be read is not called damaged
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file; fetch it again; {origin}") from error


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn an error raised while metadata are parsed into a CheckpointError that names the file."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RecursionError, VocabularyError) as error:
        reason = shorten(str(error).partition("\n")[0], _REASON)
        raise CheckpointError(f"{path}: its metadata is damaged ({reason}); fetch it again") from error
