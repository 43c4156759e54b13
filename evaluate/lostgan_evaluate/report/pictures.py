"""Pictures inside the page: sheets and samples as JPEGs small enough that the page stays light."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from lostgan_evaluate.report.runs import Run
from lostgan_evaluate.sampling import SAMPLES_FOLDER, image_files
from lostgan_serve.errors import InputError

PAGE_BYTES = 7_000_000
"""The most that all pictures of a page take, in base64."""

_SIDES_PX = (1600, 1100, 800, 560, 400, 280)
_QUALITY = 85
_SAMPLES = 24
_SAMPLE_SIDE_PX = 160


@dataclass(frozen=True)
class Picture:
    """A picture of a run. file: it, and `name` its path as the run tells it."""

    run: str
    name: str
    file: Path


def sheets_of(runs: Sequence[Run]) -> dict[str, list[Picture]]:
    """The sheets of all runs under headings, by what their names begin with."""
    found: dict[str, list[Picture]] = {}
    for run in runs:
        for sheet in run.sheets:
            found.setdefault(_heading(Path(sheet).name), []).append(Picture(run.name, sheet, run.folder / sheet))
    return found


def samples_of(run: Run) -> list[Picture]:
    """Some of a run's generated images, from all of its layouts; none where they were removed."""
    folder = run.folder / SAMPLES_FOLDER
    try:
        files = image_files(folder)
    except InputError:
        return []
    files = files[:: max(1, len(files) // _SAMPLES)][:_SAMPLES]
    return [Picture(run.name, file.name, file) for file in files]


def embedded(pictures: Sequence[Picture], samples: Sequence[Picture]) -> dict[Path, str]:
    """The pictures as data URIs by file, those that can be read. Sheets are shrunk until all of them fit into
    `PAGE_BYTES`."""
    small = _encoded(samples, _SAMPLE_SIDE_PX)
    left = PAGE_BYTES - sum(map(len, small.values()))
    large: dict[Path, str] = {}
    for side_px in _SIDES_PX:
        large = _encoded(pictures, side_px)
        if sum(map(len, large.values())) <= left:
            break
    return small | large


def _encoded(pictures: Sequence[Picture], most_px: int) -> dict[Path, str]:
    found = {picture.file: _data_uri(picture.file, most_px) for picture in pictures}
    return {file: uri for file, uri in found.items() if uri is not None}


def _data_uri(file: Path, most_px: int) -> str | None:
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((most_px, 4 * most_px))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _heading(name: str) -> str:
    if name.startswith("failures"):
        return "Failure cases: the worst objects by score (as figure 15)"
    if "nearest" in name or "neighbour" in name:
        return "Nearest neighbours"
    return "Sheets"
