"""The run time alone: a bare interpreter imports every module and shows its help."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from conftest import ROOT
from lostgan_serve.commands import main

OPTIONAL = [
    *("torch", "torchvision", "safetensors", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "tensorrt"),
    *("tritonclient", "grpc", "google.protobuf", "pytriton", "triton_python_backend_utils"),
    *("tensorrt_rtx", "tensorrt_rtx_bindings", "cuda"),
    *("starlette", "uvicorn", "anyio", "h11"),
]
HEAVY = [*OPTIONAL, "pydantic", "PIL"]
COMMANDS = main.list_commands(click.Context(main))
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


def test_public_names_resolve() -> None:
    done = bare("import lostgan_serve as l; [getattr(l, n) for n in l.__all__]; print(l.Layout, l.generate)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["client", "LAYOUT"], "tritonclient"),
        (["generate", "LAYOUT", "--model", str(ROOT / "LICENSE")], "lostgan-serve[runtime]"),  # any file
        (["edit", "LAYOUT"], "lostgan-serve[editor]"),
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


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    """So it needs no optional package, and answers at once. numpy, which the contract needs, is quick."""
    code = (
        "import sys; from lostgan_serve.commands import main\n"
        f"main({[*command.split(), '--help']}, standalone_mode=False)\n"
        f"print('imported:', *({{*{HEAVY!r}}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:")
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
