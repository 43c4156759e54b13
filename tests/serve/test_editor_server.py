"""The editor's server, as its page and as pages of other sites meet it: a real process."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from conftest import EXAMPLES, ROOT
from editing import (
    ABSENT,
    COAST,
    FAULTY,
    QUICK,
    SECRET,
    Editing,
    a_layout,
    editing,
    received,
)
from lostgan_serve.choices import MAX_SEED
from lostgan_serve.editor.guard import HEADERS
from lostgan_serve.layout import Layout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editing]:
    """An editor with the usual limits. In the end it has printed nothing but its URL."""
    with editing(tmp_path_factory.mktemp("editor")) as running:
        yield running
        assert running.stop() == ""


class TestThePage:
    def test_is_served_with_its_types(self, server: Editing) -> None:
        page = server.ask("/", headers={})
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.body == (ROOT / "lostgan_serve/editor/page/index.html").read_bytes()
        for file in (ROOT / "lostgan_serve/editor/page").iterdir():
            reply = server.ask(f"/page/{file.name}", headers={})
            assert reply.body == file.read_bytes()
            assert (
                reply.headers["content-type"].split(";")[0]
                == {
                    ".js": "text/javascript",
                    ".css": "text/css",
                    ".html": "text/html",
                }[file.suffix]
            )

    def test_head(self, server: Editing) -> None:
        reply = server.ask("/", method="HEAD", headers={})
        assert (reply.status, reply.body) == (200, b"")

    @pytest.mark.parametrize(
        "target",
        [
            "/page/../running.py",
            "/page/..%2frunning.py",
            "/page/%2e%2e/running.py",
            "/page/%2e%2e%2frunning.py",
            "/page/....//running.py",
            "/page/..\\running.py",
            "//page/index.html",
            "/page//index.html",
            "/page/index.html/",
            "/page/index.html%00",
            "/page/index.html%00.js",
            "/page/%c0%ae%c0%ae/running.py",
            "/page/",
            "/page",
            "/../../../../etc/passwd",
            "//etc/passwd",
            "http://127.0.0.1/page/index.html",
            "*",
        ],
    )
    def test_tricks_with_paths_find_nothing(self, server: Editing, target: str) -> None:
        with server.connect(f"GET {target} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n") as connection:
            reply = received(connection)
        assert reply.split(b" ", 2)[1] == b"404"
        assert HEADERS["Content-Security-Policy"].encode() in reply

    @pytest.mark.parametrize("path", ["/api/nothing", "/api/", "/api/generate/"])
    def test_what_is_not_there(self, server: Editing, path: str) -> None:
        assert server.ask(path).status == 404
        assert server.ask(path, b"{}").status == 404

    def test_is_small_and_asks_nobody_else(self) -> None:
        text = b"".join(file.read_bytes() for file in (ROOT / "lostgan_serve/editor/page").iterdir())
        assert len(gzip.compress(text)) < 60_000
        assert b"https://" not in text
        assert text.count(b"http://") == text.count(b"http://www.w3.org/2000/svg")


class TestTheGuard:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 403),
            ({"Authorization": "Bearer "}, 403),
            ({"Authorization": "Bearer " + "x" * 32}, 403),
            ({"Authorization": "Basic TOKEN"}, 403),
            ({"Authorization": "TOKEN"}, 403),
            ({"Authorization": "Bearer TOKENx"}, 403),
            ({"Authorization": "Bearer \xff"}, 403),
            ({"Cookie": "token=TOKEN"}, 403),
            ({"Authorization": "Bearer TOKEN", "Host": "evil.example"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "evil.example:PORT"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "127.0.0.1.evil.example:PORT"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "127.0.0.1"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "127.0.0.1:1"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "192.0.2.1:PORT"}, 421),
            ({"Authorization": "Bearer TOKEN", "Host": "user@127.0.0.1:PORT"}, 421),
            ({"Authorization": "Bearer TOKEN", "Origin": "http://evil.example"}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": "null"}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": ""}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": "https://127.0.0.1:PORT"}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": "https:/127.0.0.1:PORT"}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": "http://127.0.0.1:1"}, 403),
            ({"Authorization": "Bearer TOKEN", "Origin": "http://127.0.0.1:PORT.evil.example"}, 403),
            ({"Authorization": "Bearer TOKEN", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Authorization": "Bearer TOKEN", "Sec-Fetch-Site": "same-site"}, 403),
            ({"Authorization": "Bearer TOKEN"}, 200),
            ({"Authorization": "Bearer TOKEN", "Host": "localhost:PORT", "Origin": "http://localhost:PORT"}, 200),
            ({"Authorization": "Bearer TOKEN", "Host": "[::1]:PORT", "Sec-Fetch-Site": "none"}, 200),
            (
                {"Authorization": "Bearer TOKEN", "Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"},
                200,
            ),
        ],
    )
    def test_only_the_page_may_ask(self, server: Editing, headers: dict[str, str], status: int) -> None:
        port = str(server.address[1])
        given = {name: text.replace("TOKEN", server.token).replace("PORT", port) for name, text in headers.items()}
        before, _ = server.counted()
        reply = server.ask("/api/generate?outputs=image", json.dumps(a_layout(QUICK)).encode(), headers=given)
        assert reply.status == status
        assert status == 200 or reply.error
        computed = server.counted()[0] - before - 1
        assert computed == (status == 200)

    @pytest.mark.parametrize("path", ["/", "/page/index.html", "/api/model"])
    def test_pages_of_other_sites_get_nothing(self, server: Editing, path: str) -> None:
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert server.ask(path, headers=server.authorization | headers).status == 403
        assert (
            server.ask(path, headers=server.authorization | {"Host": f"evil.example:{server.address[1]}"}).status == 421
        )

    def test_a_request_without_a_host_is_refused(self, server: Editing) -> None:
        with server.connect("GET / HTTP/1.0\r\n\r\n") as connection:
            assert received(connection).split(b" ", 2)[1] == b"421"

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
    def test_other_methods(self, server: Editing, method: str) -> None:
        for path in ("/", "/api/generate"):
            assert server.ask(path, method=method).status == 405

    def test_methods_of_other_paths(self, server: Editing) -> None:
        with server.connect(server.post("/", "Content-Length: 9")) as connection:  # whose body is not waited for
            assert connection.recv(65536).startswith(b"HTTP/1.1 405 ")
        assert server.ask("/api/model", b"{}").status == 405
        assert server.ask("/api/generate").status == 405

    def test_what_is_no_http(self, server: Editing) -> None:
        for text in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ):
            with server.connect(text) as connection:
                reply = received(connection)
            assert reply.startswith(b"HTTP/1.1 400 ")
            assert HEADERS["Content-Security-Policy"].encode() in reply


class TestAnswers:
    def test_model(self, server: Editing) -> None:
        model = server.ask("/api/model").json
        assert model["labels"][0] == {"name": "sky", "color": "#5aa5f0"}
        assert len(model["labels"]) == 26
        assert (model["resolution"], model["capacity"], model["background"]) == (64, 12, False)
        assert model["untrained"]
        assert model["truncation"] == [0.05, 8]
        assert model["start"] is None
        assert [example["name"] for example in model["examples"]] == [path.stem for path in EXAMPLES]
        assert model["examples"][1]["layout"] == Layout.load(COAST).to_json()

    def test_schema(self, server: Editing) -> None:
        assert server.ask("/api/schema").json["title"] == "layout.json"

    def test_outputs_come_in_the_contracts_order(self, server: Editing) -> None:
        reply = server.generate(a_layout(QUICK, "sea"), "masks,image,object_map")
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["server-timing"].startswith("inference;dur=")
        pixels = np.frombuffer(reply.body, np.uint8).reshape(-1, 64, 64)
        object_map, masks = pixels[3], pixels[4:]
        assert [object_map[row, 0] for row in range(4)] == [0, 1, 255, 255]
        assert [len(masks), masks[0, 0, 0], masks[0, 1, 0], masks[1, 1, 0]] == [2, 200, 0, 200]

    def test_a_server_that_is_away_and_comes_back(self, server: Editing) -> None:
        away = server.folder / "away"
        away.touch()
        reply = server.generate(a_layout(ABSENT))
        assert (reply.status, reply.error) == (502, "127.0.0.1:1: no server is ready")
        away.unlink()
        assert server.generate(a_layout(ABSENT)).status == 200

    def test_faults_of_its_own(self, tmp_path: Path) -> None:
        """Told in one line, in which nothing of the request stands."""
        with editing(tmp_path) as running:
            reply = running.generate(a_layout(FAULTY))
            assert reply.status == 500
            assert SECRET not in reply.error
            assert running.generate(a_layout(QUICK)).status == 200
            (line,) = running.stop().splitlines()
        assert line.startswith("error: RuntimeError at ")
        assert SECRET not in line

    @pytest.mark.parametrize(
        ("body", "names"),
        [
            (json.dumps(a_layout("sky")), ["beach"]),
            (json.dumps([a_layout("sky"), a_layout("sea")]), ["beach-1", "beach-2"]),
            (f"{json.dumps(a_layout('sky'))}\n{json.dumps(a_layout('sea'))}\n", ["beach-1", "beach-2"]),
        ],
    )
    def test_open(self, server: Editing, body: str, names: list[str]) -> None:
        layouts = server.ask("/api/open?name=beach.json", body.encode()).json["layouts"]
        assert [each["name"] for each in layouts] == names
        assert layouts[0]["layout"] == Layout.parse(a_layout("sky")).to_json()

    @pytest.mark.parametrize(
        "field",
        [
            {"seed": 2**53},
            {"style": {"from": 2**53, "to": 1, "mix": 0}},
            {"style": {"from": 1, "to": MAX_SEED, "mix": 0}},
        ],
    )
    def test_seeds_that_a_browser_cannot_hold(self, server: Editing, field: dict[str, Any]) -> None:
        whole = a_layout(QUICK) | field
        part = {"objects": [a_layout(QUICK)["objects"][0] | field]}
        for layout in (whole, part):
            reply = server.ask("/api/open?name=a.json", json.dumps(layout).encode())
            assert reply.status == 400
            assert str(2**53 - 1) in reply.error
        assert server.ask("/api/open", json.dumps(a_layout(QUICK) | {"seed": 2**53 - 1}).encode()).status == 200

    @pytest.mark.parametrize("name", ["../../etc/passwd", "%00", "a%0ab", "x" * 5000, "", "%ff", "/", "."])
    def test_names_of_files_are_words_alone(self, server: Editing, name: str) -> None:
        (opened,) = server.ask(f"/api/open?name={name}", json.dumps(a_layout(QUICK)).encode()).json["layouts"]
        assert opened["name"].isprintable()
        assert "/" not in opened["name"]
        assert server.ask(f"/api/open?name={name}", b"{").error.isprintable()

    def test_masks(self, server: Editing) -> None:
        reply = server.ask("/api/masks", json.dumps(a_layout(QUICK, "sea")).encode())
        assert reply.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
            assert archive.namelist() == ["layout.png", "layout.mask-00-sky-1.png", "layout.mask-01-sea-1.png"]
            assert archive.testzip() is None

    def test_nothing_on_disk_changes(self, server: Editing) -> None:
        def state() -> dict[str, tuple[int, int]]:
            folders = (server.folder, ROOT / "lostgan_serve/editor/page")
            files = (path for folder in folders for path in folder.rglob("*"))
            return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

        before = state()
        body = json.dumps(a_layout(QUICK)).encode()
        for path in (
            "/api/generate?outputs=image,object_map,masks",
            "/api/coco",
            "/api/masks",
            "/api/open?name=../a.json",
        ):
            assert server.ask(path, body).status == 200
            assert server.ask(path, b"{").status == 400
        server.ask("/api/open", body.ljust(2**24))
        assert state() == before


class TestCoco:
    def test_pycocotools_reads_what_is_written(self, server: Editing, tmp_path: Path) -> None:
        layout = json.loads(COAST.read_text())
        file = tmp_path / "coco.json"
        file.write_bytes(server.ask("/api/coco", json.dumps(layout).encode()).body)
        coco = COCO(file)
        objects = Layout.load(COAST).objects
        assert [item["name"] for item in coco.anns.values()] == [item.id for item in objects]
        assert coco.loadCats([item["category_id"] for item in coco.anns.values()])[-1]["name"] == "person"
        assert coco.loadImgs(coco.getImgIds()) == [{"id": 1, "file_name": "layout.png", "width": 64, "height": 64}]
        for row, (item, drawn) in enumerate(zip(coco.anns.values(), objects, strict=True)):
            mask = coco.annToMask(item)
            assert mask.shape == (64, 64)
            assert mask[row].all()  # see LabelRunner
            assert mask.sum() == item["area"] == 64
            assert item["bbox"] == [64 * value for value in drawn.box]
        assert coco.dataset["info"]["layout"] == Layout.load(COAST).to_json()

    def test_what_is_written_opens_again(self, server: Editing) -> None:
        written = server.ask("/api/coco", COAST.read_bytes()).body
        (opened,) = server.ask("/api/open?name=coast.json", written).json["layouts"]
        drawn = Layout.load(COAST)
        assert opened["name"] == "coast"
        found = Layout.parse(opened["layout"]).objects
        assert [(o.label, o.box, o.id) for o in found] == [(o.label, o.box, o.id) for o in drawn.objects]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"images": []}, "images: there are 0"),
            ({"images": [{"id": n, "width": 10, "height": 10} for n in range(2)]}, "images: there are 2"),
            ({"images": [{"id": 1, "width": 0, "height": 10}]}, "images.0.width"),
            ({"images": None}, "images"),
            ({"annotations": []}, "objects"),
            ({"annotations": [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "annotations[0].image_id"),
            ({"annotations": [{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}]}, "annotations[0].category_id"),
            ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1]}]}, "annotations.0.bbox"),
            (
                {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, float("nan")]}]},
                "annotations.0.bbox",
            ),
            ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 11, 1]}]}, "outside the canvas"),
            ({"annotations": {}}, "annotations"),
            ({"categories": []}, "category_id"),
        ],
    )
    def test_other_annotations_are_told_of(self, server: Editing, change: dict[str, Any], words: str) -> None:
        whole = {
            "images": [{"id": 1, "width": 10, "height": 10}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 1, "name": "sky"}],
        }
        assert server.ask("/api/open", json.dumps(whole).encode()).status == 200
        reply = server.ask("/api/open?name=a.json", json.dumps(whole | change).encode())
        assert reply.status == 400
        assert reply.error.startswith("a.json")
        assert words in reply.error
