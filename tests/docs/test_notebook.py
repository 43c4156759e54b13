"""The example notebook: it runs, and shows pictures."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from conftest import EXAMPLES, ROOT


def test_the_notebook_runs(tmp_path: Path, tiny_repository: Path) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    for file in EXAMPLES:
        shutil.copy(file, examples)
    (tmp_path / "triton_repo").symlink_to(tiny_repository)
    file = ROOT / "examples" / "notebook.ipynb"
    kept = nbformat.read(file, as_version=4)
    ran = NotebookClient(
        deepcopy(kept), timeout=120, kernel_name="python3", resources={"metadata": {"path": str(examples)}}
    ).execute()
    for book in (kept, ran):  # the kept one was executed, too
        shown = [kind for cell in book.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
        assert shown.count("image/png") == 3
    sources = [cell.source for cell in kept.cells]
    assert "Mix(" in "".join(sources)
    assert str(ROOT) not in file.read_text(encoding="utf-8")
