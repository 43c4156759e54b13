"""The tritonserver to start: one on PATH, as in NVIDIA's image, or else the one inside the nvidia-pytriton wheel.

The wheel's has the Python backend only, and runs the models with this environment's ONNX Runtime (see `embedded`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from lostgan_serve.errors import MissingExtraError, ServerError, require
from lostgan_serve.triton.configuration import EMBEDDED_CONFIGURATION
from lostgan_serve.triton.server_folder import writing_shared_memory


@dataclass(frozen=True)
class Installation:
    """How to start a tritonserver: what to execute, with which options and which additional environment variables."""

    executable: Path
    options: tuple[str, ...]
    environment: dict[str, str]


def find_tritonserver(folder: Path) -> Installation:
    """Find the tritonserver to start.

    folder: an empty one that lives as long as the server, for what it needs beside the wheel. Its path must be fit for
    a shell. Raises MissingExtraError where there is no tritonserver, and ServerError where this Python does not suit
    it, where it is not whole, and where the folder cannot be written.
    """
    if executable := shutil.which("tritonserver"):
        return Installation(Path(executable), (), {})
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "there is no tritonserver on PATH and none in this environment; install one with: "
            "pip install 'lostgan-serve[server]', or run this in NVIDIA's image nvcr.io/nvidia/tritonserver"
        )
    return _wheel_installation(Path(spec.submodule_search_locations[0]).resolve(), folder)


def _wheel_installation(package: Path, folder: Path) -> Installation:
    """The nvidia-pytriton wheel's server, with a backend folder and a Python environment for it in `folder`.

    The links there keep the wheel's own path, which may hold anything, out of the Python backend's shell command and
    out of lists that are separated by colons.
    """
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = _find_stub(server, version)
    _check_numpy()
    targets = package.parent / "nvidia_pytriton.libs", _libpython_folder(version)
    backend, python = folder / "backends" / "python", folder / "python"
    libraries = folder / "wheel-libraries", folder / "python-libraries"
    with writing_shared_memory():
        backend.mkdir(parents=True)
        for file in (*(server / "backends" / "python").glob("*triton_python*"), stub):
            (backend / file.name).symlink_to(file)
        for link, target in zip(libraries, targets, strict=True):
            link.symlink_to(target)
        _mirror_environment(python, version)
    return Installation(
        server / "bin" / "tritonserver",
        (f"--backend-directory={backend.parent}", f"--model-config-name={EMBEDDED_CONFIGURATION}"),
        {
            "LD_LIBRARY_PATH": _joined(*libraries, os.environ.get("LD_LIBRARY_PATH")),
            "PATH": _joined(python / "bin", os.environ.get("PATH")),
        },
    )


def _find_stub(server: Path, version: str) -> Path:
    """The Python backend's executable for this version of Python."""
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        found = (path.name for path in stub.parent.parent.glob("3.*"))
        known = sorted(found, key=lambda name: int(name.partition(".")[2]))
        if not known:
            raise ServerError(f"{server}: the nvidia-pytriton package is not whole; install it again")
        raise ServerError(
            f"nvidia-pytriton's tritonserver has no stub for Python {version}; use one of {', '.join(known)}"
        )
    return stub


def _check_numpy() -> None:
    numpy_version = require("numpy", "server").__version__
    if int(numpy_version.partition(".")[0]) >= 2:
        raise ServerError(
            f"nvidia-pytriton's tritonserver needs numpy below 2, with {numpy_version} its answers have wrong sizes; "
            "install it with: pip install 'numpy<2'"
        )


def _mirror_environment(folder: Path, version: str) -> None:
    """Make a virtual environment that sees the packages of this process, wherever they come from.

    The stub ignores PYTHONPATH and PYTHONHOME: it takes its environment from the first `python3` on PATH.
    """
    venv.create(folder, symlinks=True)
    paths = [Path(entry).resolve() for entry in sys.path]
    paths.append(Path(__file__).parents[2])  # on sys.path already, but for an editable install with an import hook
    # As code, not as plain lines: these have no way to write a line break, or bytes that are not text. And the stub
    # imports model.py from the repository, which is to stay as it was exported.
    code = f"import os, sys; sys.dont_write_bytecode = True; sys.path += map(os.fsdecode, {[*map(os.fsencode, paths)]})"
    (folder / f"lib/python{version}/site-packages/lostgan_serve.pth").write_text(f"{code}\n", encoding="ascii")


def _libpython_folder(version: str) -> Path:
    name = f"libpython{version}.so.1.0"
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    for root in (sysconfig.get_config_var("LIBDIR") or "/usr/lib", f"{sys.base_prefix}/lib", "/usr/lib"):
        for folder in (Path(root), Path(root) / architecture):
            if (folder / name).is_file():
                return folder
    raise ServerError(
        f"nvidia-pytriton's tritonserver needs {name}, and {sys.executable} has none; install it (Debian's package is "
        f"libpython{version}) or use a Python built with --enable-shared"
    )


def _joined(*folders: Path | str | None) -> str:
    return os.pathsep.join(str(folder) for folder in folders if folder)
