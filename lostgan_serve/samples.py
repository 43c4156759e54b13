"""A folder of generated pictures: `generate` and `client` write it, and nothing twice."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lostgan_serve.choices import DEFAULT_PICTURES, MAX_SEED
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.errors import LayoutError, LostganError, ModelError, ServerError
from lostgan_serve.figures import contact_sheet
from lostgan_serve.files import sweep, write_file
from lostgan_serve.layout import Layout, LayoutObject, Mix
from lostgan_serve.layout_schema import MixPath
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.png import png, provenance_of
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.render import image_picture, mask_pictures, object_picture, overlay
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


@dataclass(frozen=True)
class SampleSet:
    """A folder of pictures. pictures: the kinds that it is to hold, of `choices.PICTURES`.

    A layout's files are `<name>.png` (the image), `<name>.objects.png` (see `render.object_picture`),
    `<name>.overlay.png` (see `render.overlay`), and `<name>.mask-<slot>-<id>.png` ([R, R], grey, levels of 255).
    Each file carries its provenance, the layout and the model, see `png.provenance_of`: a file with the provenance that
    it would get anew is not generated again.
    """

    folder: Path
    pictures: tuple[str, ...] = DEFAULT_PICTURES

    def check(self, layouts: Sequence[Layout]) -> None:
        """Raise LayoutError where the layouts' files would overwrite one another, or cannot have their names.

        Names that differ by upper and lower case only are taken for the same: some file systems do.
        """
        if not self._kinds() and not self._has_sheet(layouts):
            raise LayoutError(f"{layouts[0].source}: a sheet shows several layouts; give more, or name other pictures")
        writers = {SHEET_FILE: "the contact sheet"} if self._has_sheet(layouts) else {}
        for layout in layouts:
            owners = (*(item.id for item in layout.objects), IMAGE_LABEL_NAME)
            for name in (name for names in self._file_names(layout, owners).values() for name in names):
                if other := writers.get(name.casefold()):
                    raise LayoutError(
                        f"{layout.source} and {other}: both would write {name}; rename one of them, "
                        "or generate them in two calls with different --out"
                    )
                _check_file_name(name, layout.source)
                writers[name.casefold()] = layout.source

    def fill(
        self, layouts: Sequence[Layout], runner: Runner, *, overwrite: bool = False, progress: Progress = SILENT
    ) -> Iterator[Path]:
        """Generate the pictures that are not there yet, with `overwrite` all, and yield each file once it is written.

        Files are rendered and written on all cores while the runner works. A layout that the model refuses is told to
        `progress`, and the others go on. Raises LostganError in the end where one failed, the runner's other errors at
        once, and OutputError.
        """
        sweep(self.folder)
        missing = self._missing(layouts, runner.manifest, overwrite)
        if self._kinds() and (kept := len(layouts) - len(missing)):
            had = f"{kept} of {len(layouts)} layouts have their pictures already"
            progress.note(f"note: {had} (--overwrite redoes them)")
        sheet = self._sheet(layouts, runner.manifest, overwrite)
        wanted, shown = {layout.name for layout in missing}, {layout.name for layout in sheet}
        todo = [layout for layout in layouts if layout.name in wanted | shown]
        failures = _Failures(todo, progress)
        results = generate(todo, runner, self._outputs(sheet), failures.add)
        on_sheet: list[Result] = []
        written: deque[Future[list[Path]]] = deque()
        shows = progress if len(todo) > _SHEET_COLUMNS else SILENT
        with (
            failures.raised(),
            ThreadPoolExecutor(usable_cores()) as pool,
            closing(results),
            shows.count("generating", len(todo)) as advance,
        ):
            for done, result in enumerate(results, 1):
                failures.left.discard(result.layout.name)
                on_sheet += [result] if result.layout.name in shown else []
                if result.layout.name in wanted:
                    written.append(pool.submit(self._write, result, runner.manifest))
                while written and (len(written) > _IN_FLIGHT * usable_cores() or written[0].done()):
                    yield from written.popleft().result()
                advance(done, "")
            while written:
                yield from written.popleft().result()
            if sheet and len(on_sheet) == len(sheet):
                path = self.folder / SHEET_FILE
                write_file(path, png(contact_sheet(on_sheet), sheet_provenance(sheet, runner.manifest)))
                yield path

    def _missing(self, layouts: Sequence[Layout], manifest: Manifest, overwrite: bool) -> list[Layout]:
        """The layouts of which pictures are to be generated."""
        if not self._kinds():
            return []  # for the sheet alone
        return [layout for layout in layouts if overwrite or not self._holds(layout, manifest)]

    def _sheet(self, layouts: Sequence[Layout], manifest: Manifest, overwrite: bool) -> Sequence[Layout]:
        """The layouts of the sheet; none where it is there, or there is to be none."""
        shown = layouts[:_SHEET_COLUMNS] if self._has_sheet(layouts) else []
        there = provenance_of(self.folder / SHEET_FILE) == sheet_provenance(shown, manifest)
        return [] if there and not overwrite else shown

    def _outputs(self, sheet: Sequence[Layout]) -> list[str]:
        shown = {output for kind in self._kinds() for output in _KINDS[kind].outputs}
        shown |= set(_SHEET_OUTPUTS if sheet else ())
        return [name for name in OUTPUT_NAMES if name in shown]

    def _kinds(self) -> list[str]:
        return [kind for kind in _KINDS if kind in self.pictures]

    def _has_sheet(self, layouts: Sequence[Layout]) -> bool:
        return len(layouts) > 1 and "sheet" in self.pictures

    def files(self, result: Result, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
        """Render a layout's pictures, and yield the name and the bytes of each file."""
        provenance = _layout_provenance(result.layout, manifest)
        for kind, names in self._file_names(result.layout, result.names).items():
            for name, picture in zip(names, _KINDS[kind].render(result), strict=True):
                yield name, png(picture, provenance)

    def _write(self, result: Result, manifest: Manifest) -> list[Path]:
        """Render and write a layout's pictures. Raises OutputError."""
        paths = []
        for name, data in self.files(result, manifest):
            write_file(self.folder / name, data)
            paths.append(self.folder / name)
        return paths

    def _holds(self, layout: Layout, manifest: Manifest) -> bool:
        owners = [item.id for item in layout.objects] + [IMAGE_LABEL_NAME] * manifest.vocabulary.background
        provenance = _layout_provenance(layout, manifest)
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
    """The layouts that are left without a result. left: their names."""

    def __init__(self, layouts: Sequence[Layout], progress: Progress) -> None:
        self._layouts, self._progress = layouts, progress
        self.left = {layout.name for layout in layouts}

    def add(self, layout: Layout, error: LostganError) -> None:
        """Tell of one layout that failed."""
        self._progress.note(f"failed: {layout.name} ({layout.source}): {error}")

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Where layouts are left when the block ends, or the runner ends it, raise an error that says how many."""
        advice = "named above; the same command generates these alone"
        try:
            yield
        except (ModelError, ServerError) as error:
            for layout in self._layouts:
                if layout.name in self.left:
                    self._progress.note(f"not generated: {layout.name} ({layout.source})")
            raise type(error)(f"{error}; {self._count()} are missing, {advice}") from error
        if self.left:
            raise LostganError(f"{self._count()} failed, {advice}")

    def _count(self) -> str:
        return f"{len(self.left)} of {len(self._layouts)} layouts"


def _check_file_name(name: str, source: str) -> None:
    """Raise LayoutError for a name that no file can have."""
    try:
        too_long = len(os.fsencode(name)) > _NAME_BYTES
    except UnicodeEncodeError as error:
        raise LayoutError(
            f"{source}: {name} cannot be a file's name in this locale ({error.encoding}); use one in UTF-8"
        ) from error
    if too_long:
        raise LayoutError(f"{source}: {name} is too long for a file's name; rename the layout")


def note_untrained(manifest: Manifest, progress: Progress) -> None:
    """Tell of a model that is not worth looking at."""
    if manifest.weights == "untrained":
        progress.note("note: this model is untrained: its weights are random, and its pictures are noise")


def styles(layout: Layout, samples: int, seed: int | None = None) -> list[Layout]:
    """A layout in `samples` styles, with seeds that count up from `seed`, by default from the layout's own.

    Several styles get their seed as a part of their name. Objects with seeds or styles of their own keep them.
    """
    if samples == 1 and seed is None:
        return [layout]
    first = layout.seed if seed is None else seed
    seeds = [(first + k) % (MAX_SEED + 1) for k in range(samples)]
    return [
        replace(layout, seed=own, style=None, name=layout.name if samples == 1 else f"{layout.name}.seed{own}")
        for own in seeds
    ]


def morph(
    layout: Layout, object_id: str | None = None, to_seed: int | None = None, steps: int = 6, path: MixPath = "linear"
) -> list[Layout]:
    """A layout on the way from its style to that of another seed, by default the next, in `steps` equal steps, two at
    least. object_id: of the object that is restyled; None for all of them that have no style of their own.

    Raises LayoutError where no object has this id, and where the style to begin with is not a seed.
    """
    known = {item.id: item for item in layout.objects}
    if object_id is not None and object_id not in known:
        raise LayoutError(f"{layout.source}: no object has the id {object_id!r}; there are: {', '.join(known)}")
    item = known[object_id] if object_id is not None else None
    start = layout if item is None or (item.seed, item.style) == (None, None) else item
    if start.seed is None or start.style is not None:
        whose = "layout" if start is layout else f"object {object_id!r}"
        raise LayoutError(f"{layout.source}: a morph begins at a seed; give the {whose} a seed in place of its style")
    end = (start.seed + 1) % (MAX_SEED + 1) if to_seed is None else to_seed
    mixes = [Mix(start.seed, end, step / (steps - 1), path) for step in range(steps)]
    return [_with_style(layout, item, mix) for mix in mixes]


def _with_style(layout: Layout, item: LayoutObject | None, mix: Mix) -> Layout:
    if item is None:
        return replace(layout, style=mix)
    styled = replace(item, seed=None, style=mix)
    return replace(layout, objects=tuple(styled if other is item else other for other in layout.objects))


def _layout_provenance(layout: Layout, manifest: Manifest) -> dict[str, Any]:
    return {"layout": layout.to_json(), "model": manifest.identity()}


def sheet_provenance(layouts: Sequence[Layout], manifest: Manifest) -> dict[str, Any]:
    """The provenance of a picture of several layouts."""
    return {"layouts": [{"name": layout.name} | layout.to_json() for layout in layouts], "model": manifest.identity()}
