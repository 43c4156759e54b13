"""The run time alone: a bare interpreter imports every module and shows its help, quickly."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, run_cli

OPTIONAL = [
    *("torch", "torchvision", "safetensors", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "tensorrt"),
    *("tritonclient", "grpc", "google.protobuf", "pytriton", "triton_python_backend_utils"),
    *("tensorrt_rtx", "tensorrt_rtx_bindings", "cuda"),
]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "lostgan_serve").rglob("*.py"))
]

BLOCK = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in {OPTIONAL!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


def bare(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_without_optional_packages(module: str) -> None:
    done = bare(f"import {module}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["", "client", "generate", "serve", "labels", "export", "import", "bench", "scenes", "train", "evaluate"]
)
def test_help_needs_no_optional_package(command: str) -> None:
    done = bare(f"from lostgan_serve.commands import main; main({[*command.split(), '--help']})")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_public_names_resolve() -> None:
    done = bare("import lostgan_serve as l; [getattr(l, n) for n in l.__all__]; print(l.Layout, l.generate)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["client", "LAYOUT"], "tritonclient"),
        (["generate", "LAYOUT", "--model", str(ROOT / "LICENSE")], "lostgan-serve[runtime]"),  # any file
        (["export", "--res", "128", "--random-weights", "0"], "lostgan-serve[export]"),
        (["import", "x.pth", "--variant", "v1-64", "--vocabulary", "scenes", "--output", "y"], "lostgan-serve[export]"),
    ],
)
def test_a_missing_package_names_what_to_install(command: list[str], extra: str) -> None:
    arguments = [str(ROOT / "examples" / "coast.json") if word == "LAYOUT" else word for word in command]
    done = bare(f"from lostgan_serve.commands import main; main({arguments!r})")
    assert done.returncode == 2, done.stderr
    assert "pip install" in done.stderr
    assert extra in done.stderr
    assert "\n" not in done.stderr.strip()


def test_help_answers_at_once() -> None:
    """No timing of work, but a bound on what start-up may import: help takes half a second at the most."""
    run_cli("--help", check=True)
    best = min(_seconds() for _ in range(5))
    assert best < 0.5


def _seconds() -> float:
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).parent / "lostgan-serve", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start
