"""Answers of the editor's server: each is a function of a request's body and query alone."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from lostgan_serve import __version__
from lostgan_serve.coco import annotations_in, annotations_of, layout_of
from lostgan_serve.colors import color_of
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.encoding import check
from lostgan_serve.errors import LayoutError
from lostgan_serve.layout import Layout, parse_layouts
from lostgan_serve.layout_schema import MAX_TRUNCATION, MIN_TRUNCATION, json_schema
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.runners import Runner
from lostgan_serve.samples import SampleSet

Query = Mapping[str, str]

JSON = "application/json"
PAGE = "index.html"
"""The file of the page that `/` answers with."""

_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MAX_EXACT = 2**53 - 1  # the largest whole number up to which JavaScript holds them all


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def in_json(value: Any) -> Answer:
    """A JSON value as an answer."""
    return Answer(json.dumps(value, ensure_ascii=False).encode())


def page_files() -> dict[str, Answer]:
    """The files of the page, by their names."""
    folder = resources.files("lostgan_serve.editor").joinpath("page")
    types = {file: _PAGE_TYPES.get(PurePath(file.name).suffix) for file in folder.iterdir()}
    return {file.name: Answer(file.read_bytes(), f"{kind}; charset=utf-8") for file, kind in types.items() if kind}


@dataclass(frozen=True)
class Editor:
    """An editor of layouts for one model.

    name: of the model, as the page shows it. command: the words of the command line that generates a layout on its
    standard input with this model. start: the layout that the page begins with.
    """

    runner: Runner
    name: str
    command: Sequence[str]
    start: Layout | None = None

    def model(self) -> Answer:
        """All that the page has to know of the model. The id of `start` differs each time."""
        manifest = self.runner.manifest
        identity = json.dumps(manifest.identity(), sort_keys=True).encode()
        start = None if self.start is None else {"id": secrets.token_hex(8), **_shown(self.start)}
        return in_json(
            {
                "id": hashlib.sha256(identity).hexdigest(),
                "name": self.name,
                "labels": [
                    {"name": label, "color": "#" + bytes(color_of(label)).hex()} for label in manifest.vocabulary
                ],
                "resolution": manifest.resolution,
                "capacity": manifest.capacity,
                "background": manifest.vocabulary.background,
                "untrained": manifest.weights == "untrained",
                "truncation": [MIN_TRUNCATION, MAX_TRUNCATION],
                "version": __version__,
                "examples": [_shown(layout) for layout in _examples(manifest)],
                "start": start,
                "command": list(self.command),
            }
        )

    def generate(self, body: bytes, query: Query) -> Answer:
        """The bytes of the outputs that the query names, one after the other in the contract's order. Raises
        LayoutError, and what the runner does."""
        wanted = query.get("outputs", "").split(",")
        if unknown := [name for name in wanted if name not in OUTPUT_NAMES]:
            raise LayoutError(f"outputs: there is no {unknown[0][:40]!r}; choose from {','.join(OUTPUT_NAMES)}")
        outputs = [name for name in OUTPUT_NAMES if name in wanted]
        start = time.perf_counter()
        result = self._result(body, outputs)
        took_ms = 1000 * (time.perf_counter() - start)
        arrays = b"".join(getattr(result, name).tobytes() for name in outputs)
        return Answer(arrays, "application/octet-stream", headers={"Server-Timing": f"inference;dur={took_ms:.1f}"})

    def open(self, body: bytes, query: Query) -> Answer:
        """The layouts in a file. Raises LayoutError."""
        file = "".join(filter(str.isprintable, query.get("name", "")))[:200] or "layout.json"
        name, annotations = PurePath(file).stem, annotations_in(body)
        layouts = parse_layouts(body, name, file) if annotations is None else [layout_of(annotations, name, file)]
        return in_json({"layouts": [_shown(layout) for layout in layouts]})

    def coco(self, body: bytes, _: Query) -> Answer:
        """COCO's annotations of what is generated. Raises LayoutError, and what the runner does."""
        result = self._result(body, ["object_map"])
        return in_json(annotations_of(result, self.runner.manifest))

    def masks(self, body: bytes, _: Query) -> Answer:
        """A ZIP archive of the image and the masks. Raises LayoutError, and what the runner does."""
        result, archive = self._result(body, ["image", "masks"]), io.BytesIO()
        files = SampleSet(Path(), ("image", "masks")).files(result, self.runner.manifest)
        with zipfile.ZipFile(archive, "w") as packed:
            for name, data in files:
                packed.writestr(name, data)
        return Answer(archive.getvalue(), "application/zip")

    def schema(self) -> Answer:
        """The JSON Schema of layout.json."""
        return in_json(json_schema())

    def _result(self, body: bytes, outputs: Sequence[str]) -> Result:
        layouts = parse_layouts(body, "layout", "layout")
        if len(layouts) != 1:
            raise LayoutError(f"layout: these are {len(layouts)} layouts; send one")
        return next(generate(layouts, self.runner, outputs))


def _shown(layout: Layout) -> dict[str, Any]:
    """A layout for the page. Raises LayoutError where JavaScript cannot hold its seeds."""
    value = layout.to_json()
    for place in (value, *value["objects"]):
        style = place.get("style", {})
        for seed in (place.get("seed", 0), style.get("from", 0), style.get("to", 0)):
            if seed > _MAX_EXACT:
                raise LayoutError(f"{layout.source}: seed {seed}: a browser holds seeds up to {_MAX_EXACT}; change it")
    return {"name": layout.name, "layout": value}


def _examples(manifest: Manifest) -> list[Layout]:
    """The examples that the model can generate."""
    files = sorted(resources.files("lostgan_examples").iterdir(), key=lambda file: file.name)
    examples = []
    for file in files:
        if file.name.endswith(".json"):
            layout = Layout.parse(json.loads(file.read_bytes()), file.name.removesuffix(".json"))
            try:
                check(layout, manifest)
            except LayoutError:
                continue
            examples.append(layout)
    return examples
