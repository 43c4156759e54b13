"""Import of official LostGAN generator weights, through one table of names."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lostgan_serve.errors import CheckpointError, InputError
from lostgan_serve.files import reading
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import Checkpoint
from lostgan_train.networks.generator import Generator, GeneratorConfig
from lostgan_train.networks.masks import PYRAMID_SIDES

_LEAVES = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}
_POWER_ITERATIONS = 50
_MAGICS = (b"PK\x03\x04", b"\x80")
"""First bytes of the files of torch.save: a zip archive or, before torch 1.6, a pickle."""


def mask_classes(vocabulary: Vocabulary) -> int:
    """Count the maps that a mask head predicts: 184 with Visual Genome's 179 labels, or the official weights would not
    fit; with every other vocabulary as many as there are labels."""
    return GeneratorConfig.mask_classes if vocabulary.name == "visual-genome" else len(vocabulary)


def official_modules(config: GeneratorConfig) -> dict[str, str]:
    """Map each module path of our generator (and each alpha) to its path in the official state dict."""
    names = {
        "label_embedding": "label_embedding",
        "fc": "fc",
        "mask_net.fc": "mask_regress.fc",
        "mask_net.to_mask": "mask_regress.conv3.3",
        "final_norm": "final.0",
        "to_rgb": "final.2",
    }
    for i in range(3):
        names[f"mask_net.convs.{i}"] = f"mask_regress.conv{i + 1}.0"
        names[f"mask_net.norms.{i}"] = f"mask_regress.conv{i + 1}.1"
    first = 2 if config.variant == "v1-64" else 1  # the official 64 px generator has no res1
    for k in range(len(config.channels) - 1):
        ours, theirs = f"blocks.{k}", f"res{k + first}"
        for norm, official in (("norm1", "b1"), ("norm2", "b2")):
            names[f"{ours}.{norm}.batch_norm"] = f"{theirs}.{official}.batch_norm2d"
            names[f"{ours}.{norm}.gamma"] = f"{theirs}.{official}.weight_proj"
            names[f"{ours}.{norm}.beta"] = f"{theirs}.{official}.bias_proj"
        names |= {f"{ours}.conv1": f"{theirs}.conv1", f"{ours}.conv2": f"{theirs}.conv2"}
        names[f"{ours}.shortcut"] = f"{theirs}.c_sc"
        names |= _mask_head_modules(f"mask_heads.{k}", f"{theirs}.conv_mask", pyramid=k == config.pyramid_block)
        names[f"alphas.{k}"] = f"alpha{k + 1}"
    return names


def _mask_head_modules(ours: str, theirs: str, pyramid: bool) -> dict[str, str]:
    if not pyramid:
        layers = {"features.0": "0", "features.1": "1", "to_classes": "3"}
        return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in layers.items()}
    names = {
        f"{ours}.features.bottleneck": f"{theirs}.0.bottleneck.0",
        f"{ours}.features.norm": f"{theirs}.0.bottleneck.1",
        f"{ours}.to_classes": f"{theirs}.1",
    }
    for level in range(len(PYRAMID_SIDES)):
        names[f"{ours}.features.convs.{level}"] = f"{theirs}.0.stages.{level}.1"
        names[f"{ours}.features.norms.{level}"] = f"{theirs}.0.stages.{level}.2"
    return names


def official_keys(generator: Generator) -> dict[str, str]:
    """Map every key of `generator.state_dict()` to its official key."""
    modules = official_modules(generator.config)
    keys = {}
    for key in generator.state_dict():
        module, leaf = next((m, key[len(m) :].lstrip(".")) for m in modules if f"{key}.".startswith(f"{m}."))
        keys[key] = ".".join(filter(None, (modules[module], _LEAVES.get(leaf, leaf))))
    return keys


def convert_official(state: Mapping[str, Tensor], config: GeneratorConfig) -> Generator:
    """Build a generator from an official state dict, `module.` prefix or not.

    Spectral-norm vectors that older files lack are found by power iteration. Raises CheckpointError where a name is
    missing, left over or of another shape, and where a weight is not finite.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    generator = Generator(config)
    ours = generator.state_dict()
    keys = official_keys(generator)
    try:
        _add_spectral_vectors(state, set(keys.values()))
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(f"weights have shapes that fit no layer ({error}); check --variant") from error
    missing = sorted(set(keys.values()) - set(state))
    unknown = sorted(set(state) - set(keys.values()))
    if missing or unknown:
        found = [
            f"{len(names)} {what} (such as {', '.join(names[:3])})"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise CheckpointError(f"names do not fit {config.variant}: {'; '.join(found)}; check --variant")
    converted = {}
    for key, official in keys.items():
        value, expected = state[official], ours[key].shape
        if key.startswith("alphas."):
            value = value.flatten()
        if value.shape != expected:
            raise CheckpointError(
                f"{official} has shape {list(value.shape)}, but {config.variant} with {config.num_labels} labels needs "
                f"{list(expected)}; check --variant and --vocabulary"
            )
        converted[key] = value.to(ours[key].dtype)
        if not torch.isfinite(converted[key]).all():
            raise CheckpointError(f"{official} holds values that are not finite; fetch the weights again")
    generator.load_state_dict(converted)
    return generator.eval()


def import_official(path: Path, variant: str, vocabulary: Vocabulary) -> Checkpoint:
    """Make a checkpoint of the generator in a released file. Raises CheckpointError, and InputError for a file that is
    missing or may not be read."""
    return Checkpoint(load_official(path, GeneratorConfig(variant, len(vocabulary))), vocabulary, "trained")


def load_official(path: Path, config: GeneratorConfig) -> Generator:
    """Read the generator in a released file. Raises CheckpointError naming the file, and InputError."""
    state = read_official(path)
    try:
        return convert_official(state, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _add_spectral_vectors(state: dict[str, Tensor], wanted: set[str]) -> None:
    for key in sorted(wanted):
        base = key.removesuffix("_v")
        if not key.endswith("weight_v") or key in state or f"{base}_orig" not in state:
            continue
        matrix = state[f"{base}_orig"].flatten(1).double()
        if f"{base}_u" in state:  # its history: v follows from u, as the original computed it at every step
            u = state[f"{base}_u"].double()
        else:
            u = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.double)
            for _ in range(_POWER_ITERATIONS):
                u = torch.nn.functional.normalize(matrix @ (matrix.mT @ u), dim=0)
        state[f"{base}_u"] = u
        state[key] = torch.nn.functional.normalize(matrix.mT @ u, dim=0)


def read_official(path: Path) -> dict[str, Tensor]:
    """Read a state dict saved by torch.save; nothing but tensors is ever unpickled. Raises CheckpointError, and
    InputError for a file that is missing or may not be read."""
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the .pth file of the released weights")
        with path.open("rb") as file:
            head = file.read(4)
    foreign = f"{path}: truncated, or not a file that torch.save wrote; fetch it again"
    try:
        if not head.startswith(_MAGICS):
            raise CheckpointError(foreign)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol; what cannot be read is reported below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a plain state dict of tensors; refused without unpickling it, since that could run code"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise almost anything
        raise CheckpointError(foreign) from error
    if not isinstance(state, dict) or not state or not all(_is_entry(*item) for item in state.items()):
        raise CheckpointError(f"{path}: holds no state dict (a flat table of tensors); export one with torch.save")
    return state


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout is torch.strided
