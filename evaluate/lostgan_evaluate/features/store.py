"""Features of images, computed once: kept by the content of each image and how it was read."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lostgan_evaluate.contents import content_of
from lostgan_evaluate.features import Extractor
from lostgan_evaluate.images import Reading, Region, read_all
from lostgan_serve.contract import Array
from lostgan_serve.files import sweep, write_file
from lostgan_serve.progress import SILENT, Progress

_IMAGES_A_FILE = 512  # what an interruption loses at most


class FeatureStore:
    """Computes features of regions of images, and keeps them in files of some hundred images each.

    folder: of the files. open_extractor: loads a network by its name, on first use. The same content, read in the same
    way, is not computed again, whatever the files are called and in whichever call. Memory holds a batch of images, and
    the features.
    """

    def __init__(self, folder: Path, open_extractor: Callable[[str], Extractor], progress: Progress = SILENT) -> None:
        self._folder, self._progress = folder, progress
        self.extractor = lru_cache(None)(open_extractor)
        self._rows: dict[Path, dict[str, dict[str, Array]]] = {}

    def features(self, name: str, regions: Sequence[Region], reading: Reading) -> dict[str, Tensor]:
        """Features of each region, as of `Extractor.features`: [N, D] float32 each.

        name: of the extractor. Raises DataError for an image that does not decode, InputError for one that may not be
        read, and OutputError.
        """
        extractor = self.extractor(name)
        how = {"extractor": [extractor.name, extractor.version, extractor.side_px], "reading": reading.facts()}
        folder = self._folder / f"{name}-{_hash(json.dumps(how, sort_keys=True).encode())[:16]}"
        known = self._known(folder)
        keys = list(self._keys(regions))
        missing = {key: region for key, region in zip(keys, regions, strict=True) if key not in known}
        done = len(keys) - len(missing)
        with self._progress.count(f"features, {name}", len(keys), done) as advance:
            for part in _parts(list(missing.items()), _IMAGES_A_FILE):
                rows: dict[str, dict[str, Array]] = {}
                for batch in _parts(part, extractor.batch):
                    images = read_all([region for _, region in batch], reading, extractor.side_px)
                    found = {kind: values.numpy() for kind, values in extractor.features(images).items()}
                    rows |= {key: {kind: found[kind][k] for kind in found} for k, (key, _) in enumerate(batch)}
                    done += len(batch)
                    advance(done, "")
                write_file(folder / f"{_hash(''.join(rows).encode())[:16]}.npz", _packed(rows))
                known |= rows
        kinds = known[keys[0]] if keys else {}
        return {kind: torch.from_numpy(np.stack([known[key][kind] for key in keys])) for kind in kinds}

    def _keys(self, regions: Sequence[Region]) -> Iterator[str]:
        """The name of each region's content."""
        for region in regions:
            yield _hash(json.dumps([content_of(region.file), region.size_px, region.box]).encode())

    def _known(self, folder: Path) -> dict[str, dict[str, Array]]:
        """The features in a folder; files that are damaged count for nothing."""
        if folder not in self._rows:
            rows: dict[str, dict[str, Array]] = {}
            if folder.is_dir():
                sweep(folder)
                for file in sorted(folder.glob("*.npz")):
                    rows |= _unpacked(file)
            self._rows[folder] = rows
        return self._rows[folder]


def _packed(rows: Mapping[str, Mapping[str, Array]]) -> bytes:
    kinds = next(iter(rows.values()))
    arrays = {kind: np.stack([row[kind] for row in rows.values()]) for kind in kinds}
    buffer = io.BytesIO()
    np.savez(buffer, keys=np.array(list(rows)), **arrays)
    return buffer.getvalue()


def _unpacked(file: Path) -> dict[str, dict[str, Array]]:
    try:
        with np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    keys = arrays.pop("keys", np.array([]))
    return {str(key): {kind: values[k] for kind, values in arrays.items()} for k, key in enumerate(keys)}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parts(items: list[tuple[str, Region]], size: int) -> Iterator[list[tuple[str, Region]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
