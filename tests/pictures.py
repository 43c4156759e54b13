"""Make the pictures of README and docs that show what the bundled models generate anew: `make pictures`.

Those of `evaluate`, of experiments and of benchmarks come from runs that take an hour: their pages name the commands.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser import EditorPage, EditorServer
from conftest import ROOT, run_cli
from lostgan_export.bench.editor import opened_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXAMPLES = ROOT / "examples"
COAST = EXAMPLES / "coast.json"
LAKE = EXAMPLES / "mountain-lake.json"

FIGURES: dict[str, tuple[int, tuple[object, ...], str]] = {
    "demo.png": (128, ("generate", *sorted(EXAMPLES.glob("*.json"))), "contact-sheet.png"),
    "first-picture.png": (128, ("generate", "layout.json", "--samples", 4), "contact-sheet.png"),
    "coast.styles.png": (128, ("styles", COAST, "--samples", 8), "coast.styles.png"),
    "coast.morph.png": (128, ("morph", COAST, "--to-seed", 8, "--steps", 6), "coast.morph.png"),
    "coast-boat-moved.compare.png": (128, ("compare", COAST, "boat-moved.json"), "coast-boat-moved.compare.png"),
    "256px.png": (256, ("generate", *sorted(EXAMPLES.glob("*.json"))), "contact-sheet.png"),
    "512px.png": (512, ("generate", LAKE), "mountain-lake.png"),
}
"""Pictures in docs/, each with the model's resolution, the words of its command and the file that this writes."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {resolution: folder / "repository" / f"lostgan_{resolution}" for resolution in (128, 256, 512)}
        for resolution in models:
            run_cli("export", "--res", resolution, "--repository", folder / "repository", check=True)
        readme = (ROOT / "README.md").read_text("utf-8")
        layout = re.search(r"^cat > layout.json <<'EOF'\n(.+?)^EOF", readme, re.MULTILINE | re.DOTALL)
        assert layout
        (folder / "layout.json").write_text(layout[1], "utf-8")
        moved = COAST.read_text("utf-8").replace("[250, 175, 110, 90]", "[430, 175, 110, 90]")
        (folder / "boat-moved.json").write_text(moved, "utf-8")
        for picture, (resolution, words, made) in FIGURES.items():
            out = folder / picture.removesuffix(".png")
            run_cli(*words, "--model", models[resolution], "--out", out, check=True, cwd=folder)
            shutil.copy(out / made, ROOT / "docs" / picture)
        server = EditorServer(models[128], folder, str(COAST))
        try:
            with opened_browser() as browser:
                with _page(browser, server, 1280, 860) as page:
                    page.choose("boat-1")
                    _photograph(page, "editor.png")
                with _page(browser, server, 820, 1180, color_scheme="dark", has_touch=True) as page:
                    page.start_from("farm")
                    page.choose("house-1")
                    page.page.get_by_text("Overlay", exact=True).click()
                    _photograph(page, "editor-dark.png")
        finally:
            server.kill()


@contextmanager
def _page(browser: Browser, server: EditorServer, width: int, height: int, **options: Any) -> Iterator[EditorPage]:
    with browser.new_context(viewport={"width": width, "height": height}, **options) as context:
        page = EditorPage(context.new_page(), server.url)
        page.settle()
        yield page


def _photograph(page: EditorPage, name: str) -> None:
    page.settle()
    page.page.screenshot(path=ROOT / "docs" / name)


if __name__ == "__main__":
    main()
