"""The report: one page and its Markdown, of evaluations and tables."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from browser import needs_browser
from lostgan_evaluate.commands.report import report
from lostgan_evaluate.published import PUBLISHED, of_the_papers_network, published, published_figure, stands_for
from lostgan_export.bench.editor import OPTIONS, browser_program
from lostgan_serve.errors import LostganError

PHONE_PX = 390

Json = dict[str, Any]


def score(value: float, metric: str, better: str = "higher", **more: Any) -> Json:
    return {"value": value, "better": better, "spread": None, "real": None, "by_label": {}, "facts": {},
            "metric": metric} | more  # fmt: skip


def an_evaluation(folder: Path, name: str = "one", **changes: Any) -> Path:
    """An evaluation.json with scores of two networks, sheets and samples."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, sheet in enumerate(("failures.png", "nearest-images.png", "masks.png")):
        Image.radial_gradient("L").convert("RGB").resize((1400, 300 + k)).save(folder / sheet)
    (folder / "samples").mkdir(exist_ok=True)
    for k in range(30):
        Image.new("RGB", (64, 64), (8 * k, 90, 200)).save(folder / "samples" / f"{k:05}.png")
        Image.new("P", (64, 64), k).save(folder / "samples" / f"{k:05}.objects.png")
    content = {
        "format": "lostgan-serve evaluation 1",
        "subject": {"name": name, "model": {"variant": "v2-128", "resolution": 128}, "images": 150, "layouts": 30},
        "data": {"name": "held-out", "format": "coco", "vocabulary": "scenes", "images": 30, "objects": 210},
        "protocol": {"name": "scenes-128", "split": "val", "samples": 5, "reading": {"side_px": 128}},
        "seed": 0,
        "extractors": ["efficientnet-lite0"],
        "versions": {"lostgan-serve": "0.1.0", "torch": "2.10.0"},
        "scores": {
            "fd_efficientnet_lite0": score(41.25, "fd", "lower"),
            "is_efficientnet_lite0": score(7.5, "is", spread=0.25, real=9.0),
            "cas_resnet18": score(0.5, "cas", by_label={"tree": 0.75, "moon & <sky>": 0.25}),
            "kid_efficientnet_lite0": score(-0.001, "kid", "lower"),
        },
        "left_out": {"ap": "there are no training images; give --training-data"},
        "sheets": ["failures.png", "nearest-images.png", "masks.png", "gone.png"],
    }
    path = folder / "evaluation.json"
    path.write_text(json.dumps(content | changes))
    return path


def made(*arguments: object) -> Result:
    return CliRunner().invoke(report, list(map(str, arguments)))


def page_of(tmp_path: Path, *files: Path) -> str:
    done = made(*files, "--out", tmp_path / "report.html", "--markdown", tmp_path / "report.md")
    assert done.exit_code == 0, done.output
    return (tmp_path / "report.html").read_text()


def table_after(page: str, title: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    found = re.search(rf"<(?:h\d|summary)>{re.escape(title)}</.*?<table>(.*?)</table>", page, re.DOTALL)
    assert found, title
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_published_numbers() -> None:
    """Counts of the paper's rows and some of its cells, the first and the last of each kind."""
    assert [len({(row.method, row.resolution_px) for row in published(table)}) for table in range(1, 9)] == [
        15, 8, 3, 14, 4, 4, 5, 6,
    ]  # fmt: skip
    assert all(row.scores for row in PUBLISHED)
    found = published_figure(1, "LostGAN-V2", 128, "IS")
    assert found is not None
    assert (found.value, found.spread) == (14.21, 0.40)
    vg = next(row for row in published(1, "visual-genome") if row.resolution_px == 512 and row.method == "LostGAN-V2")
    assert (vg.scores["FID"].value, vg.scores["DS"].value, vg.scores["DS"].spread) == (52.73, 0.61, 0.09)
    assert not any(row.method.startswith("Grid2Im") for row in published(1, "visual-genome"))
    figures = {row.method: row.scores["FID"].value for row in published(8)}
    assert figures["m0 + m1"] == 63.96


@pytest.mark.parametrize(
    ("name", "of_paper", "same_network"),
    [
        ("fid", "FID", True),
        ("fd_efficientnet_lite0", "FID", False),
        ("scene_fd_efficientnet_lite0", None, False),
        ("is_efficientnet_lite0", "IS", False),
        ("cas", "CAS", True),
        ("ap50_mobilenet", "AP50", False),
        ("nearest_mask_iou", "mask IoU", True),
        ("precision", None, False),
    ],
)
def test_which_score_stands_for_which(name: str, of_paper: str | None, same_network: bool) -> None:
    assert (stands_for(name), of_the_papers_network(name)) == (of_paper, same_network)


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    inception = {"fid": score(30.7, "fd", "lower"), "is": score(12.0, "is")}
    one = an_evaluation(tmp_path / "a")
    two = an_evaluation(tmp_path / "b", "two", scores=inception, seed=7, versions={"torch": "2.11.0"})
    page = page_of(tmp_path, one, two)
    rows = {row[0]: row[1:] for row in table_after(page, "Scores")}
    assert rows["score"] == ["one", "two"]
    assert rows["fd_efficientnet_lite0 ↓"] == ["41.25", "-"]
    assert rows["fid ↓"] == ["-", "30.7"]
    assert rows["is_efficientnet_lite0 ↑"] == ["7.5 ± 0.25 (9)", "-"]
    differences = {row[0]: row[1:] for row in table_after(page, "Why numbers differ")}
    assert differences["seed"] == ["0", "7"]
    assert differences["version.torch"] == ["2.10.0", "2.11.0"]
    assert not {"protocol.samples", "subject.name"} & set(differences)
    published_table = table_after(page, "Published, table 1: Overall quality: Inception Score, FID and Diversity Score")
    assert ["LostGAN-V2", "128", "COCO-Stuff", "14.21 ± 0.40", "24.76", "0.45 ± 0.09"] in published_table
    assert "fd_efficientnet_lite0 (in place of FID)" in page
    assert table_after(page, "Not measured")[1][:2] == ["ap", "one"]


def test_page_needs_no_network_and_holds_its_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path, an_evaluation(tmp_path / "a"))
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|url\(|<script|@import", page)
    assert page.count("data:image/jpeg;base64,") == 24 + 3
    assert "gone.png is not there" in page
    assert "moon &amp; &lt;sky&gt;" in page
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert "Failure cases: the worst objects by score (as figure 15)" in headings
    assert "Nearest neighbours" in headings
    assert page.index("moon &amp; &lt;sky&gt;") < page.index(">tree<"), "the worst label stands on top"


def test_markdown_has_the_same_tables(tmp_path: Path) -> None:
    page_of(tmp_path, an_evaluation(tmp_path / "a"))
    text = (tmp_path / "report.md").read_text()
    assert "| fd_efficientnet_lite0 ↓ | 41.25 |" in text
    assert "| m0 + m1 | 256 | COCO-Stuff | 14.14 ± 0.33 | 63.96 |" in text
    assert "![failures.png](<a/failures.png>)" in text
    assert "gone.png" not in text


def test_many_large_sheets_stay_a_light_page(tmp_path: Path) -> None:
    names = [f"sheet-{k}.png" for k in range(8)]
    path = an_evaluation(tmp_path / "a", sheets=names)
    for k, name in enumerate(names):
        Image.effect_noise((1600, 1600), 40 + k).save(tmp_path / "a" / name, compress_level=1)
    assert len(page_of(tmp_path, path)) < 8_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "format None"),
        ('{"format": "lostgan-serve evaluation 1"}', "subject"),
        ('{"format": "lostgan-serve table 1", "experiment": "table9"}', "damaged"),
    ],
)
def test_wrong_files_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    done = made(an_evaluation(tmp_path / "a"), path, "--out", tmp_path / "report.html")
    assert isinstance(done.exception, LostganError)
    assert str(path) in str(done.exception)
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = made(tmp_path / "none.json", "--out", tmp_path / "report.html")
    assert isinstance(done.exception, LostganError)
    assert "none.json" in str(done.exception)


@needs_browser
def test_a_phone_shows_it_without_scrolling_sideways(tmp_path: Path) -> None:
    """In a real browser, in a frame as wide as a phone: nothing sticks out, and what is wider scrolls in itself."""
    long_name = "a-very-long-name-of-a-run-" * 6
    scores = {f"score_{k}_with_a_long_name_efficientnet_lite0": score(k / 7, "kid", spread=0.1) for k in range(4)}
    files = [an_evaluation(tmp_path / f"run-{k}", f"{long_name}{k}") for k in range(4)]
    page = page_of(tmp_path, *files, an_evaluation(tmp_path / "last", scores=scores))
    frame = (
        f'<iframe id="phone" style="border:0;width:{PHONE_PX}px;height:800px" srcdoc="{html.escape(page)}"></iframe>'
    )
    measure = """<script>onload = () => {
        const root = document.getElementById("phone").contentDocument.documentElement;
        const tables = [...root.querySelectorAll(".wide")].filter(x => x.scrollWidth > x.clientWidth).length;
        document.body.innerHTML = `widths ${root.scrollWidth} ${root.clientWidth} ${tables}`; }</script>"""
    wrapper = tmp_path / "phone.html"
    wrapper.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frame}{measure}</body>")
    seen = in_browser(tmp_path, "--dump-dom", wrapper.as_uri())
    widths = re.search(r"widths (\d+) (\d+) (\d+)", seen)
    assert widths, seen[-2000:]
    scrolls, visible, wide_tables = map(int, widths.groups())
    assert scrolls <= visible <= PHONE_PX
    assert wide_tables > 0, "the test's tables should be wider than a phone"


@needs_browser
def test_a_browser_draws_it(tmp_path: Path) -> None:
    page_of(tmp_path, an_evaluation(tmp_path / "a"))
    picture = tmp_path / "screenshot.png"
    page = (tmp_path / "report.html").as_uri()
    in_browser(tmp_path, f"--screenshot={picture}", "--window-size=800,3000", "--hide-scrollbars", page)
    with Image.open(picture) as shot:
        assert shot.size == (800, 3000)
        colors = shot.convert("RGB").resize((100, 375)).getcolors(100 * 375)
    assert colors is not None
    assert len(colors) > 200, "samples and sheets have many colours"


def in_browser(tmp_path: Path, *arguments: str) -> str:
    """What Chromium prints. It starts without a sandbox, since tests may run as root, and asks no network."""
    command = [browser_program(), "--headless", *OPTIONS, f"--user-data-dir={tmp_path / 'browser'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
