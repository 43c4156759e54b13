"""The models of a Triton model repository and their files: where they lie is stated here and nowhere else.

triton_repo/                 the repository: a folder for each model
  lostgan_512/               a ModelFolder; its configurations are written by `triton.configuration`
    timing.cache             measurements of TensorRT, which builds of all versions share
    1/                       a ModelVersion: a folder whose name is its number
      model.onnx             the graph and its weights, with the manifest in its metadata
      manifest.json          the manifest, with the hash of model.onnx
      model.plan             a TensorRT engine, and engine.json about it, where export built one
      model.py               the module that Triton's Python backend loads
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import ModelError
from lostgan_serve.files import new_folder, read_file, reading, write_file
from lostgan_serve.manifest import MAX_MANIFEST_BYTES, METADATA_KEY, Manifest
from lostgan_serve.onnx_file import MAX_BYTES, read_metadata

ONNX_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "model.plan"
ENGINE_FILE = "engine.json"
TIMING_CACHE = "timing.cache"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # file systems, URLs and Triton take these as they are
_VERSION_NAME = re.compile(r"0|[1-9][0-9]{0,17}")
_TRITON_NUMBER = re.compile(r"\s*([+-]?[0-9]+)")  # std::stoll: what follows the digits counts for nothing

_MODEL_PY = '''\
"""The model for Triton's Python backend; all of it is in lostgan_serve.triton.embedded."""
from lostgan_serve.triton.embedded import TritonPythonModel  # noqa: F401
'''


def model_name(resolution: int) -> str:
    """The name of a model of `resolution` px that was given no other."""
    return f"lostgan_{resolution}"


def check_model_name(name: str) -> str:
    """Return a name under which a model can be served. Raises ModelError for any other."""
    if not _MODEL_NAME.fullmatch(name):
        raise ModelError(
            f"--name {name!r}: no name for a model; give up to 100 letters, digits, _, - and ., the first a letter, a "
            "digit or _"
        )
    return name


@dataclass(frozen=True)
class ModelVersion:
    """The files of one version, beside its ONNX file. Not all of them need be there."""

    onnx: Path

    @property
    def manifest_file(self) -> Path:
        return self.onnx.with_name(MANIFEST_FILE)

    @property
    def plan(self) -> Path:
        """The TensorRT engine."""
        return self.onnx.with_name(PLAN_FILE)

    @property
    def engine_note(self) -> Path:
        """The file that says what may load the engine."""
        return self.onnx.with_name(ENGINE_FILE)

    def has_engine(self) -> bool:
        """Whether export built a TensorRT engine of it. Raises InputError."""
        with reading(self.plan):
            return self.plan.is_file()

    def manifest(self) -> Manifest:
        """The manifest beside the ONNX file, or the one within it. Raises ModelError where there is neither, and
        InputError."""
        with reading(self.manifest_file):
            is_beside, is_within = self.manifest_file.is_file(), self.onnx.is_file()
        if is_beside:
            return Manifest.from_json(read_file(self.manifest_file, MAX_MANIFEST_BYTES), str(self.manifest_file))
        if is_within:
            return self._manifest_within(read_file(self.onnx, MAX_BYTES))
        raise ModelError(f"{self.manifest_file}: no such file; make a model with: lostgan-serve export")

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest beside the ONNX file, with that file's hash. Raises OutputError."""
        sealed = manifest.model_copy(update={"onnx_sha256": sha256(self.onnx)})
        write_file(self.manifest_file, sealed.to_json().encode())

    def is_sealed(self) -> bool:
        """Whether a manifest with the ONNX file's hash lies beside it. Raises ModelError and InputError."""
        return (beside := self._manifest_beside()) is not None and beside.onnx_sha256 is not None

    def check(self) -> None:
        """Raise ModelError unless the ONNX file is there, is the one that export made, and may be loaded, and
        InputError where it cannot be read.

        Damage that leaves a graph that loads, such as a flipped bit of a weight, is found by the hash in the manifest.
        Manifests of older exports have none, and an ONNX file by itself has no manifest beside it: of both, weights
        that are not finite are found, and all that `onnx_file` refuses. A manifest that was edited is told from the one
        in the file's metadata.
        """
        with reading(self.onnx):
            if not self.onnx.is_file():
                raise ModelError(f"{self.onnx}: no such model; make one with: lostgan-serve export")
        data, beside = read_file(self.onnx, MAX_BYTES), self._manifest_beside()
        if beside is not None and beside.onnx_sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise ModelError(
                f"{self.onnx}: is not the file that export made (its sha256 differs from the manifest's); "
                "export it again"
            )
        within = self._manifest_within(data)
        if beside is not None and beside.model_copy(update={"onnx_sha256": None}) != within:
            raise ModelError(
                f"{self.manifest_file}: differs from the manifest within {self.onnx.name}: edited, or another model's; "
                "export it again"
            )

    def _manifest_within(self, data: bytes) -> Manifest:
        """The manifest in the metadata of the ONNX file, whose bytes are `data`."""
        return Manifest.from_json(read_metadata(data, self.onnx).get(METADATA_KEY, ""), str(self.onnx))

    def _manifest_beside(self) -> Manifest | None:
        """The manifest of a file that lies where export puts it; None where it lies elsewhere, or has none."""
        with reading(self.manifest_file):
            is_there = self.onnx.name == ONNX_FILE and self.manifest_file.is_file()
        return self.manifest() if is_there else None


@dataclass(frozen=True)
class ModelFolder:
    """One model of a repository. The folder need not exist yet."""

    path: Path

    @property
    def name(self) -> str:
        """The name under which the model is served."""
        return self.path.name

    @property
    def timing_cache(self) -> Path:
        return self.path / TIMING_CACHE

    def versions(self) -> dict[int, ModelVersion]:
        """The versions that hold a model, by their numbers. Raises InputError."""
        with reading(self.path):
            numbers = {int(name): name for name in self._folders() if _VERSION_NAME.fullmatch(name)}
            found = {number: ModelVersion(self.path / name / ONNX_FILE) for number, name in numbers.items()}
            return {number: version for number, version in found.items() if version.onnx.is_file()}

    def newest(self) -> ModelVersion:
        """The version with the highest number. Raises ModelError where there is none, and InputError."""
        versions = self.versions()
        if not versions:
            raise ModelError(f"{self.path}: no exported version in this folder; make one with: lostgan-serve export")
        return versions[max(versions)]

    def check(self) -> None:
        """Raise ModelError unless Triton would load the newest version and its files are those that export made.

        Triton takes a folder such as "2_test" for version 2, and waits for ever for the files of a folder "2".
        """
        newest = max(self.versions(), default=0)
        for name in self._folders():
            number = _triton_number(name)
            if number is not None and number > newest:
                raise ModelError(
                    f"{self.path / name}: Triton would take this folder for version {number} of the model, and it is "
                    "none that export made; move it out of the model's folder"
                )
        self.newest().check()

    @contextmanager
    def new_version(self, *, replace: bool = False) -> Iterator[ModelVersion]:
        """Yield a version in an empty folder that becomes the model's next once the block ends well.

        replace: take the newest version's place instead. The folder is renamed to its number when it is whole, so that
        a running server never sees half a version; where the block fails nothing changes. Raises OutputError.
        """
        newest = max((int(name) for name in self._folders() if _VERSION_NAME.fullmatch(name)), default=0)
        number = newest if replace and newest else newest + 1
        with new_folder(self.path / str(number)) as folder:
            yield ModelVersion(folder / ONNX_FILE)
            write_file(folder / "model.py", _MODEL_PY.encode())

    def _folders(self) -> list[str]:
        """The names of the folders in this one, in the order of the alphabet. Raises InputError."""
        with reading(self.path):
            entries = sorted(self.path.iterdir()) if self.path.is_dir() else []
            return [entry.name for entry in entries if entry.is_dir()]


def exported_models(repository: Path) -> list[ModelFolder]:
    """The models of which a repository holds at least one version. Raises ModelError where there is none, and
    InputError."""
    with reading(repository):
        is_there = repository.is_dir()
        folders = [ModelFolder(path) for path in sorted(repository.iterdir())] if is_there else []
    models = [folder for folder in folders if folder.versions()]
    if not models:
        state = "no exported model in this repository" if is_there else "no such model repository"
        raise ModelError(f"{repository}: {state}; make a model with: lostgan-serve export --res 512")
    return models


def find_version(model: str | os.PathLike[str]) -> ModelVersion:
    """The version that `model` stands for: a model's folder, whose newest version is taken, or one of its files.

    Raises ModelError where the folder holds none, which names the models where it is a whole repository, and
    InputError.
    """
    path = Path(model)
    with reading(path):
        is_folder = path.is_dir()
    if not is_folder:
        return ModelVersion(path.with_name(ONNX_FILE) if path.name == PLAN_FILE else path)
    folder = ModelFolder(path)
    if not folder.versions() and (names := _models_in(path)):
        raise ModelError(f"{path}: a model repository, not a model; give one of its models: {', '.join(names)}")
    return folder.newest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _models_in(folder: Path) -> list[str]:
    try:
        return [str(model.path) for model in exported_models(folder)]
    except ModelError:
        return []


def _triton_number(name: str) -> int | None:
    """The version that Triton takes a folder of this name for; None where it passes the folder over."""
    match = _TRITON_NUMBER.match(name)
    leading_zero = len(name) > 1 and name.startswith("0")
    return int(match[1]) if match and not leading_zero else None
