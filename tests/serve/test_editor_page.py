"""The editor's page in a real browser, in front of a real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browser import EditorPage, EditorServer, Json, needs_browser
from conftest import ROOT
from lostgan_export.bench.editor import measure
from lostgan_serve.layout import Layout
from lostgan_serve.styles import style_codes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = needs_browser


def box_of(layout: Json, id_: str) -> list[float]:
    (found,) = [item["box"] for item in layout["objects"] if item["id"] == id_]
    return [128 * share for share in found]


def codes(layout: Json) -> dict[str, np.ndarray[Any, Any]]:
    parsed = Layout.parse(layout)
    return dict(zip((item.id for item in parsed.objects), style_codes([parsed])[0].objects, strict=True))


def test_a_box_is_drawn_and_labelled(editor: EditorPage) -> None:
    editor.drag((0.25, 0.25), (0.75, 0.5))
    editor.page.keyboard.type("moun")
    editor.press("Enter")
    first = editor.pixels()
    (item,) = editor.layout()["objects"]
    assert (item["label"], item["box"]) == ("mountain", [0.25, 0.25, 0.5, 0.25])
    editor.press("d")
    editor.drag((0.375, 0.3125), (0.5, 0.4375))  # inside the other box
    editor.page.keyboard.type("boat")
    editor.press("Enter")
    assert editor.pixels() != first
    assert [item["label"] for item in editor.layout()["objects"]] == ["mountain", "boat"]
    assert box_of(editor.layout(), editor.layout()["objects"][1]["id"]) == [48, 40, 16, 16]


def test_a_drag_asks_for_the_newest_layout_only(editor: EditorPage) -> None:
    editor.start_from("coast")

    def delay(route: Route) -> None:
        editor.page.wait_for_timeout(100)
        route.continue_()

    editor.page.route("**/api/generate*", delay)
    count = len(editor.asked)
    editor.drag((0.48, 0.52), (0.6, 0.7), steps=40)
    editor.settle()
    assert editor.most_in_flight == 1
    assert 1 <= len(editor.asked) - count < 20
    before, after = (box_of(layout, "boat-1") for layout in (editor.asked[count - 1], editor.asked[-1]))
    assert after[2:] == before[2:]
    assert after[0] - before[0] == pytest.approx(0.12 * 128, abs=2)
    assert editor.page.locator("#box-x").input_value() == f"{after[0]:g}"


def test_every_handle_resizes(editor: EditorPage) -> None:
    editor.start_from("coast")
    editor.choose("boat-1")
    for edges, moves in {
        "nw": (0, 1),
        "n": (1,),
        "ne": (1, 2),
        "e": (2,),
        "se": (2, 3),
        "s": (3,),
        "sw": (0, 3),
        "w": (0,),
    }.items():
        left, top, width, height = box_of(editor.layout(), "boat-1")
        corners = [left, top, left + width, top + height]
        handle = editor.page.locator(f"[data-edges={edges}] .reach").bounding_box()
        assert handle
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        editor.page.keyboard.down("Control")  # no snapping
        editor.page.mouse.move(x, y)
        editor.page.mouse.down()
        editor.page.mouse.move(x + 17, y + 17, steps=3)  # 3 px of the picture or so
        editor.page.mouse.up()
        editor.page.keyboard.up("Control")
        left, top, width, height = box_of(editor.layout(), "boat-1")
        changed = [abs(a - b) > 0.5 for a, b in zip(corners, (left, top, left + width, top + height), strict=True)]
        assert [index for index, is_changed in enumerate(changed) if is_changed] == list(moves), edges


def test_boxes_snap_to_the_edges_of_others(editor: EditorPage) -> None:
    editor.start_from("coast")
    sun = box_of(editor.layout(), "sun-1")
    start = box_of(editor.layout(), "boat-1")
    middle = ((start[0] + start[2] / 2) / 128, (start[1] + start[3] / 2) / 128)
    near = (middle[0] + (sun[0] - start[0] + 0.6) / 128, middle[1])  # less than a pixel beside the sun's left edge
    editor.drag(middle, near)
    assert box_of(editor.layout(), "boat-1")[0] == pytest.approx(sun[0], abs=1e-6)
    editor.press("Control+z")
    editor.page.keyboard.down("Control")
    editor.drag(middle, (near[0] + 1 / 128, near[1]))
    editor.page.keyboard.up("Control")
    assert abs(box_of(editor.layout(), "boat-1")[0] - sun[0]) > 0.3


def test_dice_and_lock_leave_other_styles_alone(editor: EditorPage) -> None:
    editor.start_from("coast")
    first = codes(editor.layout())
    editor.page.locator('.object-row[data-id="boat-1"] [data-action=dice]').click()
    second = codes(editor.layout())
    assert {name for name in first if (first[name] != second[name]).any()} == {"boat-1"}
    editor.page.locator('.object-row[data-id="sea-1"] [data-action=lock]').click()
    assert codes(editor.layout()).keys() == second.keys()
    assert all((codes(editor.layout())[name] == second[name]).all() for name in second)
    editor.page.click("#dice-all")
    third = codes(editor.layout())
    assert {name for name in second if (second[name] == third[name]).all()} == {"boat-1", "sea-1", "walker"}


def test_a_morph_lies_between_two_styles(editor: EditorPage) -> None:
    editor.start_from("coast")
    start = editor.pixels()
    editor.choose("boat-1")
    editor.page.fill("#morph-to", "9")
    editor.press("Tab")
    editor.page.focus("#mix")
    editor.press("ArrowRight", "ArrowRight")
    (boat,) = [item for item in editor.layout()["objects"] if item["id"] == "boat-1"]
    assert boat["style"] == {"from": 7, "to": 9, "mix": 0.02}
    editor.press("End")
    assert codes(editor.layout())["boat-1"] == pytest.approx(codes({"seed": 9, "objects": [
        {"label": "boat", "box": [0, 0, 1, 1], "id": "boat-1"}]})["boat-1"])  # fmt: skip
    assert editor.pixels() != start


def test_fifty_steps_are_undone_and_redone_to_the_same_pixels(editor: EditorPage) -> None:
    editor.start_from("coast")
    start = editor.pixels()
    editor.choose("boat-1")
    steps: list[Callable[[], object]] = [
        lambda: editor.press("ArrowRight"),
        lambda: editor.press("Shift+ArrowDown"),
        lambda: editor.press("Alt+ArrowLeft"),
        lambda: editor.press("r"),
        lambda: editor.press("l"),
        lambda: editor.drag((0.5, 0.6), (0.55, 0.55), steps=3),
        lambda: editor.page.click("#dice-all"),
        lambda: editor.page.locator(".object-row [data-action=down]").first.click(),
        lambda: editor.choose("boat-1"),
        lambda: editor.press("Control+d"),
        lambda: editor.press("Delete"),
        lambda: editor.choose("boat-1"),
    ]
    history = "JSON.parse(localStorage.getItem('lostgan-serve.editor')).past.length"
    for step in steps * 5:
        step()
    end = editor.pixels()
    editor.page.wait_for_timeout(500)  # until it is kept
    count = editor.page.evaluate(history) - 1  # the example was one
    assert count >= 50
    editor.press(*["Control+z"] * count)
    assert editor.pixels() == start
    editor.press(*["Control+Shift+z"] * count)
    assert editor.pixels() == end
    editor.press(*["Control+z"] * (count + 1))
    assert editor.page.locator(".object-row").count() == 0
    assert editor.page.locator("#undo").is_disabled()


def test_the_layout_survives_a_reload(editor: EditorPage) -> None:
    editor.start_from("coast")
    editor.choose("boat-1")
    editor.press("Shift+ArrowRight")
    pixels, layout = editor.pixels(), editor.layout()
    editor.page.reload()
    assert editor.pixels() == pixels
    assert editor.layout() == layout
    editor.press("Control+z")
    assert box_of(editor.layout(), "boat-1")[0] == box_of(layout, "boat-1")[0] - 10


def test_a_server_killed_in_mid_drag_loses_nothing(browser: Browser, tiny_repository: Path, tmp_path: Path) -> None:
    server = EditorServer(tiny_repository / "lostgan_128", tmp_path)
    try:
        with browser.new_context() as context:
            editor = EditorPage(context.new_page(), server.url)
            editor.start_from("coast")
            editor.drag((0.48, 0.52), (0.5, 0.6), release=False)
            port = server.port
            server.kill()
            editor.page.mouse.move(*editor.at(0.6, 0.7), steps=10)
            editor.page.mouse.up()
            away = editor.page.locator("#away")
            away.wait_for(state="visible")
            assert "does not answer" in away.inner_text()
            assert "kept in this browser" in away.inner_text()
            editor.press("ArrowRight")  # it goes on to edit meanwhile
            server.start(port)
            away.wait_for(state="hidden")
            editor.says("server is back")
            left = float(editor.page.locator("#box-x").input_value())
            assert box_of(editor.layout(), "boat-1")[0] == pytest.approx(left, abs=0.01)
            assert left > 128 * 0.45
    finally:
        server.kill()


def test_the_keyboard_alone_makes_a_layout(editor: EditorPage) -> None:
    page = editor.page
    for _ in range(40):
        editor.press("Tab")
        if page.evaluate("document.activeElement.id") == "add":
            break
    editor.press("Enter")
    page.keyboard.type("sky")
    editor.press("Enter")
    assert "object" in page.evaluate("document.activeElement.getAttribute('class')")
    editor.press("Shift+ArrowUp", "ArrowLeft", "Alt+ArrowRight", "Alt+Shift+ArrowDown")
    (sky,) = editor.layout()["objects"]
    assert np.rint([128 * share for share in sky["box"]]).tolist() == [37, 28, 52, 61]
    editor.press("n")
    page.keyboard.type("sea")
    editor.press("Enter", "Control+d", "[", "Delete")
    assert [item["label"] for item in editor.layout()["objects"]] == ["sky", "sea"]
    name = page.locator(".object").first.get_attribute("aria-label")
    assert name == "sky, sky-1: x 37, y 28, width 52, height 61"
    outline = page.evaluate("getComputedStyle(document.querySelector('#add')).outlineStyle")
    page.focus("#add")
    editor.press("Shift+Tab", "Tab")
    assert outline != page.evaluate("getComputedStyle(document.querySelector('#add')).outlineStyle")  # visible focus


def test_several_objects_are_moved_copied_and_deleted(editor: EditorPage) -> None:
    editor.start_from("coast")
    first = editor.layout()
    editor.choose("sun-1")
    editor.page.locator('.object-row[data-id="boat-1"] [data-action=select]').click(modifiers=["Shift"])
    editor.press("ArrowDown")
    moved = {item["id"] for item, old in zip(editor.layout()["objects"], first["objects"], strict=True) if item != old}
    assert moved == {"sun-1", "boat-1"}
    editor.press("Control+c", "Control+v")
    assert [item["id"] for item in editor.layout()["objects"]][-2:] == ["sun-2", "boat-2"]
    editor.press("Control+x")
    assert len(editor.layout()["objects"]) == len(first["objects"])
    editor.press("Control+v", "Control+z", "Control+z", "Control+z")
    assert {item["id"] for item in editor.layout()["objects"]} == {item["id"] for item in first["objects"]}


def test_no_more_objects_than_the_model_takes(editor: EditorPage) -> None:
    for _ in range(13):
        editor.press("Escape", "n", "Escape")
    editor.says("room for 12")
    assert len(editor.layout()["objects"]) == 12


@pytest.mark.parametrize("view", ["objects", "mask", "overlay", "split"])
def test_views(editor: EditorPage, view: str) -> None:
    editor.start_from("coast")
    editor.choose("boat-1")
    image = editor.pixels()
    editor.page.check(f"[name=view][value={view}]", force=True)
    editor.page.wait_for_timeout(200)
    assert editor.pixels() != image
    if view in ("overlay", "split"):
        half = editor.pixels()
        editor.page.focus("#share")
        editor.press("End")
        assert editor.pixels() != half
    editor.page.check("[name=view][value=image]", force=True)
    assert editor.pixels() == image


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_finding_of_axe(editor: EditorPage, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    editor.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    editor.start_from("coast")
    editor.choose("boat-1")
    editor.page.focus("#label")
    editor.press("ArrowDown")
    found = Axe().run(editor.page).response["violations"]
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("width_px", [390, 820, 1280])
def test_nothing_sticks_out(editor: EditorPage, width_px: int) -> None:
    editor.page.set_viewport_size({"width": width_px, "height": 800})
    editor.start_from("coast")
    editor.choose("boat-1")
    assert editor.page.evaluate("document.documentElement.scrollWidth") <= width_px
    stage = editor.page.locator("#stage").bounding_box()
    assert stage
    assert stage["width"] >= min(width_px - 32, 300)


def test_a_wrong_token_is_told_of(browser: Browser, editor_server: EditorServer) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(editor_server.url.partition("#")[0] + "#token=wrong")
        page.locator("#away").wait_for(state="visible")
        assert "token" in page.locator("#away").inner_text()


def test_the_bench_measures_drags(browser: Browser, tiny_repository: Path, tmp_path: Path) -> None:
    server = EditorServer(tiny_repository / "lostgan_128", tmp_path, str(ROOT / "examples" / "coast.json"))
    try:
        with browser.new_context() as context:
            speed = measure(context.new_page(), server.url, drags=3, drag_s=1)
    finally:
        server.kill()
    assert len(speed.release_to_pixels_ms) == 3
    assert 0 < speed.median_ms <= speed.p95_ms
    assert speed.most_in_flight == 1
    assert speed.drag_pictures > 1
