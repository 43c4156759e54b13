"""A folder of generated pictures: `generate` and `client` write it, and nothing twice."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.errors import LayoutError, LostganError, ServerUnavailableError
from lostgan_serve.files import sweep, write_file
from lostgan_serve.layout import MAX_SEED, Layout
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.png import png, provenance_of
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.render import contact_sheet, image_picture, mask_pictures, object_picture, overlay
from lostgan_serve.runners import Runner
from lostgan_serve.runners.cores import usable_cores
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

SHEET_FILE = "contact-sheet.png"
_SHEET_COLUMNS = 8
_IN_FLIGHT = 4  # layouts for each core that wait to be rendered and written
_ID_BYTES = 100  # of an id in the name of a mask's file
_NAME_BYTES = 255  # of a file's name, in most file systems


@dataclass(frozen=True)
class _Kind:
    """A kind of picture. outputs: the outputs of the contract that it shows."""

    outputs: tuple[str, ...]
    render: Callable[[Result], list[Image.Image]]


_KINDS = {
    "image": _Kind(("image",), lambda result: [image_picture(result)]),
    "object_map": _Kind(("object_map",), lambda result: [object_picture(result)]),
    "overlay": _Kind(("image", "masks"), lambda result: [overlay(result)]),
    "masks": _Kind(("masks",), mask_pictures),
}
_SHEET_OUTPUTS = ("image", "object_map")

PICTURES = (*_KINDS, "sheet")
"""The kinds of pictures that a SampleSet can hold: four of each layout, and one sheet of the first eight layouts."""

DEFAULT_PICTURES = ("image", "object_map", "overlay", "sheet")


@dataclass(frozen=True)
class SampleSet:
    """A folder of pictures. pictures: the kinds that it is to hold, of PICTURES.

    A layout's files are `<name>.png` (the image), `<name>.objects.png` (see `render.object_picture`),
    `<name>.overlay.png` (see `render.overlay`), and `<name>.mask-<slot>-<id>.png` ([R, R], grey, levels of 255).
    Each file carries its provenance, the layout and the model, see `png.provenance_of`: a file with the provenance that
    it would get anew is not generated again.
    """

    folder: Path
    pictures: tuple[str, ...] = DEFAULT_PICTURES

    def check_names(self, layouts: Sequence[Layout]) -> None:
        """Raise LayoutError where a file would overwrite another one, or where its name is too long.

        Names that differ by upper and lower case only are taken for the same: some file systems do.
        """
        writers = {SHEET_FILE: "the contact sheet"} if self._has_sheet(layouts) else {}
        for layout in layouts:
            owners = (*(item.id for item in layout.objects), IMAGE_LABEL_NAME)
            for name in (name for names in self._file_names(layout, owners).values() for name in names):
                if other := writers.get(name.casefold()):
                    raise LayoutError(
                        f"{layout.source} and {other}: both would write {name}; rename one of them, "
                        "or generate them in two calls with different --out"
                    )
                if len(name.encode(errors="surrogateescape")) > _NAME_BYTES:
                    raise LayoutError(f"{layout.source}: {name} is too long for a file's name; rename the layout")
                writers[name.casefold()] = layout.source

    def missing(self, layouts: Iterable[Layout], manifest: Manifest) -> list[Layout]:
        """The layouts of which the model's pictures are not all there."""
        return [layout for layout in layouts if not self._holds(layout, manifest)]

    def fill(
        self, layouts: Sequence[Layout], missing: Sequence[Layout], runner: Runner, progress: Progress = SILENT
    ) -> Iterator[Path]:
        """Generate those of the layouts that are `missing`, and the sheet where it has changed; yield each file once it
        is written. Files are rendered and written on all cores while the runner works.

        A layout that the runner fails at is told to `progress`, and the others go on. Raises LostganError in the end
        where one failed, at once where the server is gone, and OutputError.
        """
        sweep(self.folder)
        failures = _Failures(missing, progress)
        sheet = self._outdated_sheet(layouts, missing, runner.manifest)
        wanted, shown = {layout.name for layout in missing}, {layout.name for layout in sheet}
        todo = [layout for layout in layouts if layout.name in wanted | shown]
        results = generate(todo, runner, self._outputs(sheet), failures.add)
        on_sheet: list[Result] = []
        written: deque[Future[list[Path]]] = deque()
        shows = progress if len(todo) > _SHEET_COLUMNS else SILENT
        with (
            failures.told(),
            ThreadPoolExecutor(usable_cores()) as pool,
            closing(results),
            shows.count("generating", len(todo)) as advance,
        ):
            for done, result in enumerate(results, 1):
                on_sheet += [result] if result.layout.name in shown else []
                if result.layout.name in wanted:
                    failures.left.discard(result.layout.name)
                    written.append(pool.submit(self._write, result, runner.manifest))
                while written and (len(written) > _IN_FLIGHT * usable_cores() or written[0].done()):
                    yield from written.popleft().result()
                advance(done, "")
            while written:
                yield from written.popleft().result()
            if on_sheet:
                path = self.folder / SHEET_FILE
                write_file(path, png(contact_sheet(on_sheet), _of_sheet(sheet, runner.manifest)))
                yield path

    def _outdated_sheet(
        self, layouts: Sequence[Layout], missing: Sequence[Layout], manifest: Manifest
    ) -> Sequence[Layout]:
        """The layouts of the sheet that has to be made; none where it is there."""
        shown = layouts[:_SHEET_COLUMNS] if self._has_sheet(layouts) else []
        if not missing and provenance_of(self.folder / SHEET_FILE) == _of_sheet(shown, manifest):
            return []
        return shown

    def _outputs(self, sheet: Sequence[Layout]) -> list[str]:
        shown = {output for kind in self._kinds() for output in _KINDS[kind].outputs}
        shown |= set(_SHEET_OUTPUTS if sheet else ())
        return [name for name in OUTPUT_NAMES if name in shown]

    def _kinds(self) -> list[str]:
        return [kind for kind in _KINDS if kind in self.pictures]

    def _has_sheet(self, layouts: Sequence[Layout]) -> bool:
        return len(layouts) > 1 and "sheet" in self.pictures

    def _write(self, result: Result, manifest: Manifest) -> list[Path]:
        """Render and write a layout's pictures. Raises OutputError."""
        provenance, paths = _of_layout(result.layout, manifest), []
        for kind, names in self._file_names(result.layout, result.names).items():
            for name, picture in zip(names, _KINDS[kind].render(result), strict=True):
                write_file(self.folder / name, png(picture, provenance))
                paths.append(self.folder / name)
        return paths

    def _holds(self, layout: Layout, manifest: Manifest) -> bool:
        owners = [item.id for item in layout.objects] + [IMAGE_LABEL_NAME] * manifest.vocabulary.background
        provenance = _of_layout(layout, manifest)
        files = [name for names in self._file_names(layout, owners).values() for name in names]
        return all(provenance_of(self.folder / name) == provenance for name in files)

    def _file_names(self, layout: Layout, owners: Iterable[str]) -> dict[str, list[str]]:
        """The names of a layout's files, by their kind. owners: the ids whose masks there are."""
        plain = (re.sub(r"[^\w.-]+", "_", owner).encode()[:_ID_BYTES].decode(errors="ignore") for owner in owners)
        names = {
            "image": [f"{layout.name}.png"],
            "object_map": [f"{layout.name}.objects.png"],
            "overlay": [f"{layout.name}.overlay.png"],
            "masks": [f"{layout.name}.mask-{slot:02}-{owner}.png" for slot, owner in enumerate(plain)],
        }
        return {kind: names[kind] for kind in self._kinds()}


class _Failures:
    """The layouts that are missing in the end. left: the names of those that no picture was generated of yet."""

    def __init__(self, missing: Sequence[Layout], progress: Progress) -> None:
        self._missing, self._progress = missing, progress
        self.left = {layout.name for layout in missing}

    def add(self, layout: Layout, error: LostganError) -> None:
        """Tell of one layout that failed."""
        self._progress.note(f"failed: {layout.name} ({layout.source}): {error}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Where layouts are left when the block ends, or the server is gone, raise an error that says how many."""
        advice = "named above; the same command generates these alone"
        try:
            yield
        except ServerUnavailableError as error:
            for layout in self._missing:
                if layout.name in self.left:
                    self._progress.note(f"not generated: {layout.name} ({layout.source})")
            raise ServerUnavailableError(f"{error}; {self._count()} are missing, {advice}") from error
        if self.left:
            raise LostganError(f"{self._count()} failed, {advice}")

    def _count(self) -> str:
        return f"{len(self.left)} of {len(self._missing)} layouts"


def styles(layout: Layout, samples: int, seed: int | None = None) -> list[Layout]:
    """A layout in `samples` styles, of the seeds that follow `seed`, or else its own. Several get their seed as a part
    of their name. Objects with seeds of their own keep their style."""
    first = layout.seed if seed is None else seed
    seeds = [(first + k) % (MAX_SEED + 1) for k in range(samples)]
    return [
        replace(layout, seed=own, name=layout.name if samples == 1 else f"{layout.name}.seed{own}") for own in seeds
    ]


def _of_layout(layout: Layout, manifest: Manifest) -> dict[str, Any]:
    """The provenance of a layout's pictures."""
    return {"layout": layout.to_json(), "model": manifest.identity()}


def _of_sheet(layouts: Sequence[Layout], manifest: Manifest) -> Mapping[str, Any]:
    return {"layouts": [layout.to_json() for layout in layouts], "model": manifest.identity()}
