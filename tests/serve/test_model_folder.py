"""The models of a repository: their versions are found once and whole, and damage is told of before it does harm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import EXAMPLES, a_manifest, fails_in_one_line, run_cli
from lostgan_serve.errors import InputError, ModelError, OutputError
from lostgan_serve.manifest import METADATA_KEY, Manifest
from lostgan_serve.model_folder import ModelFolder, ModelVersion, exported_models, find_version
from lostgan_serve.triton.configuration import write_configuration

STRAYS = ["2_test", "2 copy", " 2", "+3", "2.onnx", "123456789012345678901234567890"]
"""Names of folders that Triton takes for a version after the first, and would wait for."""

HARMLESS = ["1 copy", "01", "0002", "v2", "-5", "tests", ".tmp-2"]
"""Names of folders that Triton passes over, or takes for a version that is not the newest."""


def onnx_bytes() -> bytes:
    """The smallest ONNX file that is a model of that manifest."""
    model = onnx.helper.make_model(onnx.helper.make_graph([], "none", [], []))
    onnx.helper.set_model_props(model, {METADATA_KEY: a_manifest().to_json()})
    return model.SerializeToString()


ONNX_BYTES = onnx_bytes()


def publish(repository: Path, name: str = "lostgan_512", *, replace: bool = False, data: bytes = ONNX_BYTES) -> None:
    with ModelFolder(repository / name).new_version(replace=replace) as version:
        assert not list(version.onnx.parent.iterdir())
        version.onnx.write_bytes(data)
        version.write_manifest(a_manifest())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cannot_be_read(path: Path) -> str:
    """Ask for the models at `path` in a process that has not root's right to read everything; what it is told."""
    code = f"from lostgan_serve.model_folder import find_version; find_version({str(path)!r}).check()"
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


# versions


def test_versions_count_up_and_replace_takes_the_newest_place(tmp_path: Path) -> None:
    publish(tmp_path, replace=True, data=b"1")
    publish(tmp_path, data=b"2")
    (tmp_path / "lostgan_512" / "10").mkdir()
    publish(tmp_path, data=b"11")
    publish(tmp_path, data=b"replaced", replace=True)
    found = {name: data for name, data in contents(tmp_path / "lostgan_512").items() if name.endswith(".onnx")}
    assert found == {"1/model.onnx": b"1", "2/model.onnx": b"2", "11/model.onnx": b"replaced"}
    assert b"import TritonPythonModel" in (tmp_path / "lostgan_512/11/model.py").read_bytes()


def test_a_model_is_found_by_its_folder_or_by_one_of_its_files(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    newest = tmp_path / "lostgan_512" / "2"
    for model in (tmp_path / "lostgan_512", newest / "model.onnx", newest / "model.plan"):
        assert find_version(model).onnx == newest / "model.onnx"
    assert find_version(tmp_path / "lostgan_512").manifest().variant == "v2-512"
    assert not find_version(tmp_path / "lostgan_512").has_engine()


def test_what_a_killed_export_left_is_no_version(tmp_path: Path) -> None:
    left = tmp_path / "lostgan_512" / ".tmp-abc" / "new"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    with pytest.raises(ModelError, match="no exported model"):
        exported_models(tmp_path)
    publish(tmp_path)
    assert (tmp_path / "lostgan_512" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, replace: bool) -> None:
    publish(tmp_path)
    before = contents(tmp_path)

    def fail() -> None:
        with ModelFolder(tmp_path / "lostgan_512").new_version(replace=replace) as version:
            version.onnx.write_bytes(b"half")
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path) == before
    assert [path.name for path in (tmp_path / "lostgan_512").iterdir()] == ["1"]


def test_the_loser_of_two_exports_at_once_is_told(tmp_path: Path) -> None:
    def race() -> None:
        with ModelFolder(tmp_path / "lostgan_512").new_version() as version:
            version.onnx.write_bytes(b"loser")
            publish(tmp_path, data=b"winner")

    with pytest.raises(OutputError, match=r"lostgan_512/1: another process has made it meanwhile"):
        race()
    assert (tmp_path / "lostgan_512" / "1" / "model.onnx").read_bytes() == b"winner"


@pytest.mark.parametrize("name", [*STRAYS, *HARMLESS])
def test_a_folder_that_only_looks_like_a_version_is_none(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    model = ModelFolder(tmp_path / "lostgan_512")
    shutil.copytree(model.path / "1", model.path / name)
    assert list(model.versions()) == [1]
    assert model.newest().onnx == model.path / "1" / "model.onnx"


@pytest.mark.parametrize("name", STRAYS)
def test_a_folder_that_triton_would_wait_for_is_named(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    model = ModelFolder(tmp_path / "lostgan_512")
    shutil.copytree(model.path / "1", model.path / name)
    with pytest.raises(
        ModelError, match=rf"^{re.escape(str(model.path / name))}: Triton would take this folder for ver"
    ):
        model.check()


@pytest.mark.parametrize("name", HARMLESS)
def test_a_folder_that_triton_passes_over_is_no_obstacle(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    model = ModelFolder(tmp_path / "lostgan_512")
    shutil.copytree(model.path / "1", model.path / name)
    model.check()


def test_a_version_without_a_model_is_named(tmp_path: Path) -> None:
    publish(tmp_path)
    model = ModelFolder(tmp_path / "lostgan_512")
    (model.path / "2").mkdir()
    assert list(model.versions()) == [1]
    with pytest.raises(ModelError, match="lostgan_512/2: Triton would take"):
        model.check()


# repositories


def test_exported_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lostgan-serve export --res"):
        exported_models(tmp_path / "missing")
    write_configuration(ModelFolder(tmp_path / "lostgan_512"), a_manifest())  # as in git: no version
    with pytest.raises(ModelError, match=f"{tmp_path}.*lostgan-serve export --res"):
        exported_models(tmp_path)
    publish(tmp_path, "lostgan_128")
    publish(tmp_path, "lostgan_256")
    (tmp_path / "README.md").write_text("not a model")
    assert [model.name for model in exported_models(tmp_path)] == ["lostgan_128", "lostgan_256"]


def test_a_repository_given_as_a_model_names_its_models(tmp_path: Path) -> None:
    for name in ("lostgan_128", "lostgan_256"):
        publish(tmp_path, name)
    with pytest.raises(ModelError, match=rf"not a model.*{tmp_path}/lostgan_128, {tmp_path}/lostgan_256$"):
        find_version(tmp_path)


# files that cannot be read, or that export did not make


@pytest.mark.parametrize("locked", ["lostgan_512", "lostgan_512/1", "lostgan_512/1/model.onnx"])
def test_a_path_that_may_not_be_read_is_named(tmp_path: Path, locked: str) -> None:
    publish(tmp_path)
    path = tmp_path / locked
    path.chmod(0)
    try:
        message = cannot_be_read(tmp_path / "lostgan_512")
    finally:
        path.chmod(0o700)
    assert re.search(rf"InputError: {tmp_path}/lostgan_512\S*: cannot be read \(Permission denied\)", message)


def test_a_name_that_is_too_long_is_named() -> None:
    with pytest.raises(InputError, match=r"cannot be read .File name too long"):
        find_version("x" * 300)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_flipped_bit_is_found(tiny_model: Path, tmp_path: Path, place: int) -> None:
    version = copied(tiny_model, tmp_path)
    version.check()
    data = bytearray(version.onnx.read_bytes())
    data[place] ^= 0x40
    version.onnx.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"model\.onnx: is not the file that export made .*; export it again$"):
        version.check()


def test_weights_that_are_not_finite_are_refused_before_anything_is_generated(tiny_model: Path, tmp_path: Path) -> None:
    """Such a file loads in every runtime, and gives black pictures."""
    version = copied(tiny_model, tmp_path)
    graph = onnx.load(version.onnx)
    weights = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(graph, version.onnx)
    for runner in ("auto", "onnxrt", "openvino"):
        options = ("--model", tmp_path / "lostgan_128", "--out", tmp_path / "out", "--runner", runner)
        done = run_cli("generate", EXAMPLES[0], *options)
        fails_in_one_line(done, [version.onnx, "is not the file that export made"])
        assert not (tmp_path / "out").exists()


def test_models_of_older_exports_and_lone_files_are_opened(tiny_model: Path, tmp_path: Path) -> None:
    version = copied(tiny_model, tmp_path)
    older = json.loads(version.manifest_file.read_text())
    del older["onnx_sha256"]
    version.manifest_file.write_text(json.dumps(older))
    version.check()
    version.manifest_file.unlink()
    version.check()
    alone = shutil.copytree(tiny_model.parent, tmp_path / "alone")
    find_version((alone / "model.onnx").rename(alone / "renamed.onnx")).check()  # beside the manifest of another file


def test_a_manifest_that_is_damaged_is_named(tiny_model: Path, tmp_path: Path) -> None:
    version = copied(tiny_model, tmp_path)
    version.manifest_file.write_bytes(version.manifest_file.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"manifest\.json: not a lostgan-serve model"):
        version.check()


def copied(model: Path, folder: Path) -> ModelVersion:
    """A copy of a model's version, to be spoilt."""
    shutil.copytree(model.parent, folder / "lostgan_128" / "1")
    return ModelFolder(folder / "lostgan_128").newest()


def test_manifest_of_a_newer_version_is_read() -> None:
    manifest = a_manifest()
    newer = json.dumps(json.loads(manifest.to_json()) | {"added_later": 1})
    assert Manifest.from_json(newer, "newer") == manifest


def test_manifest_has_a_resolution_that_exists() -> None:
    odd = a_manifest().to_json().replace('"resolution": 512', '"resolution": 100')
    with pytest.raises(ModelError, match="odd: not a lostgan-serve model"):
        Manifest.from_json(odd, "odd")
