"""Files that the editor's page opens and saves, in a real browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import EditorPage, needs_browser
from conftest import ROOT
from lostgan_serve.layout import Layout

pytestmark = needs_browser


def test_a_saved_layout_opens_to_the_same_pixels(editor: EditorPage, tmp_path: Path) -> None:
    editor.start_from("farm")
    editor.press("Control+a", "r", "ArrowLeft")
    pixels = editor.pixels()
    with editor.page.expect_download() as saved:
        editor.press("Control+s")
    file = tmp_path / saved.value.suggested_filename
    saved.value.save_as(file)
    assert file.name == "farm.json"
    Layout.load(file)
    editor.start_from("coast")
    assert editor.pixels() != pixels
    editor.page.set_input_files("#file", file)
    editor.says("Opened farm.json")
    assert editor.pixels() == pixels


def test_a_broken_file_is_told_of_in_one_line(editor: EditorPage, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text('{"objects": [{"label": "sky", "box": [0, 0, 1]}]}')
    editor.page.set_input_files("#file", file)
    editor.says("objects[0].box")
    assert editor.errors.pop().startswith("Failed to load resource")  # the browser's own line for the status 400


def test_the_copied_command_generates_the_picture(editor: EditorPage, tmp_path: Path) -> None:
    editor.start_from("coast")
    editor.page.click("#dice-all")
    editor.settle()
    with editor.page.expect_download() as saved:
        editor.page.click("#save-image")
    saved.value.save_as(tmp_path / "shown.png")
    editor.page.click("#copy-command")
    editor.says("clipboard")
    command = editor.page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["sh", "-c", f'PATH="{ROOT}/.venv/bin:$PATH"\n{command}'], cwd=tmp_path, check=True, timeout=100)

    shown, made = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("shown.png", "out/stdin.png")
    )
    assert abs(shown - made).max() <= 1  # of 255: another batch's sums may be rounded otherwise


def test_masks_and_coco_are_downloaded_and_opened(editor: EditorPage, tmp_path: Path) -> None:
    editor.start_from("coast")
    boxes = [item["box"] for item in editor.layout()["objects"]]
    for button, name in (("#save-masks", "coast.masks.zip"), ("#save-coco", "coast.coco.json")):
        with editor.page.expect_download() as saved:
            editor.page.click(button)
        assert saved.value.suggested_filename == name
        saved.value.save_as(tmp_path / name)
    annotations = json.loads((tmp_path / "coast.coco.json").read_text())["annotations"]
    assert len(annotations) == len(boxes)
    editor.start_from("farm")
    editor.page.set_input_files("#file", tmp_path / "coast.coco.json")
    editor.says("Opened coast.coco.json")
    assert [item["box"] for item in editor.layout()["objects"]] == [pytest.approx(box, abs=1e-6) for box in boxes]


def test_a_file_is_dropped_on_the_page(editor: EditorPage) -> None:
    text = (ROOT / "examples" / "farm.json").read_text(encoding="utf-8")
    drop = """(text) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([text], "barn.json"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    editor.page.evaluate(drop, text)
    editor.says("Opened barn.json")
    assert len(editor.layout()["objects"]) == len(json.loads(text)["objects"])
