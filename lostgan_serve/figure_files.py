"""Figures of one or two layouts, generated and written: many styles, a morph, a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lostgan_serve.changes import changes, describe, level_changes
from lostgan_serve.encoding import check
from lostgan_serve.figures import comparison_sheet, morph_animation, morph_strip, styles_sheet
from lostgan_serve.files import write_file
from lostgan_serve.layout import Layout
from lostgan_serve.layout_schema import MixPath
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.png import png
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.render import image_picture
from lostgan_serve.runners import Runner
from lostgan_serve.samples import morph, note_untrained, sheet_provenance, styles


class Comparison(NamedTuple):
    """The sheet of two layouts, and a line for each thing that changed."""

    path: Path
    lines: list[str]


def write_styles(
    layout: Layout,
    samples: int,
    runner: Runner,
    folder: Path,
    *,
    seed: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write FOLDER/NAME.styles.png: a layout and its images in `samples` styles, see `samples.styles`.

    Raises LayoutError, OutputError and the runner's errors.
    """
    results = _generate(styles(layout, samples, seed), runner, ("image",), progress)
    path = folder / f"{layout.name}.styles.png"
    _write(path, styles_sheet(results, layout.name), results, runner)
    return path


def write_morph(
    layout: Layout,
    runner: Runner,
    folder: Path,
    *,
    object_id: str | None = None,
    to_seed: int | None = None,
    steps: int = 6,
    path: MixPath = "linear",
    progress: Progress = SILENT,
) -> list[Path]:
    """Write FOLDER/NAME.morph.png and NAME.morph.webp: a morph, see `samples.morph`, as a strip and as an animation.

    Raises LayoutError, OutputError and the runner's errors.
    """
    results = _generate(morph(layout, object_id, to_seed, steps, path), runner, ("image", "object_map"), progress)
    strip, animation = (folder / f"{layout.name}.morph.{kind}" for kind in ("png", "webp"))
    _write(strip, morph_strip(results, object_id), results, runner)
    write_file(animation, morph_animation(results))
    return [strip, animation]


def write_comparison(
    before: Layout, after: Layout, runner: Runner, folder: Path, *, progress: Progress = SILENT
) -> Comparison:
    """Write FOLDER/BEFORE-AFTER.compare.png: two layouts, their pictures, and where these differ.

    Raises LayoutError, OutputError and the runner's errors.
    """
    results = _generate([before, after], runner, ("image", "object_map"), progress)
    images = [np.asarray(image_picture(result)) for result in results]
    found, levels = changes(before, after), level_changes(images[0], images[1])
    lines = describe(found, levels)
    path = folder / f"{before.name}-{after.name}.compare.png"
    _write(path, comparison_sheet(results[0], results[1], found, levels, lines), results, runner)
    return Comparison(path, lines)


def _generate(layouts: Sequence[Layout], runner: Runner, outputs: Sequence[str], progress: Progress) -> list[Result]:
    for layout in layouts:
        check(layout, runner.manifest)
    note_untrained(runner.manifest, progress)
    return list(generate(layouts, runner, outputs))


def _write(path: Path, picture: Image.Image, results: Sequence[Result], runner: Runner) -> None:
    write_file(path, png(picture, sheet_provenance([result.layout for result in results], runner.manifest)))
