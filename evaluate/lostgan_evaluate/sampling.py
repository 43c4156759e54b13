"""From a model and data, or from folders of images, to a `Subject`."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lostgan_evaluate.protocols import Protocol
from lostgan_evaluate.subject import Sample, Subject
from lostgan_serve.errors import EvaluationError, InputError
from lostgan_serve.files import reading
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.samples import SampleSet, styles
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Example, Source

SAMPLES_FOLDER = "samples"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

_OWN_PICTURES = re.compile(r"\.(objects|overlay|mask-\d+-.*)$|^contact-sheet$")
"""Ends of the names, without suffix, of pictures in a SampleSet that are no generated images."""


def generated(
    name: str,
    runner: Runner,
    source: Source,
    protocol: Protocol,
    out: Path,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Subject:
    """Generate the styles of each layout of a split into the SampleSet `out`/samples, or what of it is missing.

    Layouts with more objects than the model has slots are passed over. seed: of the first style of the first layout;
    every style of every layout has a seed of its own. Raises EvaluationError where the model does not know the data's
    labels, LostganError where layouts failed, what the runner raises, and OutputError.
    """
    check_labels(runner, source)
    fitting = tuple(example for example in source.examples if len(example.labels) <= runner.manifest.capacity)
    if passed := len(source.examples) - len(fitting):
        progress.note(f"note: {passed} layouts have more objects than the model has slots; they are passed over")
    if not fitting:
        raise EvaluationError(f"{source.summary.folder}: no layout has at most {runner.manifest.capacity} objects")
    layouts = layouts_of(fitting, source.vocabulary, protocol, seed)
    sample_set = SampleSet(out / SAMPLES_FOLDER, ("image", "object_map"))
    all_styles = [styles(layout, protocol.samples) for layout in layouts]
    fill([style for of_layout in all_styles for style in of_layout], sample_set, runner, progress)
    samples = [
        Sample(sample_set.folder / f"{layout.name}.png", place, style, sample_set.folder / f"{layout.name}.objects.png")
        for place, of_layout in enumerate(all_styles)
        for style, layout in enumerate(of_layout)
    ]
    return Subject(name, tuple(samples), fitting, protocol, source, runner=runner)


def fill(layouts: Sequence[Layout], sample_set: SampleSet, runner: Runner, progress: Progress = SILENT) -> None:
    """Generate what a SampleSet is missing. Raises LostganError, OutputError and what the runner raises."""
    sample_set.check(layouts)
    deque(sample_set.fill(layouts, runner, progress=progress), maxlen=0)


def layouts_of(examples: Sequence[Example], vocabulary: Vocabulary, protocol: Protocol, seed: int = 0) -> list[Layout]:
    """The layouts of examples, named after their images, with seeds far enough apart for the protocol's styles."""
    names = Counter(example.image.stem for example in examples)
    layouts = []
    for place, example in enumerate(examples):
        stem = example.image.stem
        layouts.append(
            Layout(
                _objects(example, vocabulary),
                seed + place * protocol.samples,
                protocol.truncation,
                stem if names[stem] == 1 else f"{stem}-{place}",
                str(example.image),
            )
        )
    return layouts


def _objects(example: Example, vocabulary: Vocabulary) -> tuple[LayoutObject, ...]:
    seen: Counter[str] = Counter()
    objects = []
    for label_id, box in zip(example.labels, example.boxes, strict=True):
        label = vocabulary.labels[label_id]
        seen[label] += 1
        objects.append(LayoutObject(label, box, f"{label}-{seen[label]}"))
    return tuple(objects)


def check_labels(runner: Runner, source: Source) -> None:
    """Raise EvaluationError unless the model knows every label of the data's objects."""
    known, used = runner.manifest.vocabulary, {label for example in source.examples for label in example.labels}
    names = [source.vocabulary.labels[label] for label in sorted(used)]
    if unknown := [name for name in names if name not in set(known)]:
        raise EvaluationError(
            f"{source.summary.folder}: has {len(unknown)} labels that the model does not know, such as {unknown[0]!r}; "
            f"it generates {known.name}"
        )


def compared(images: Path, real: Sequence[Example], protocol: Protocol, source: Source | None = None,
             progress: Progress = SILENT) -> Subject:  # fmt: skip
    """A folder of images from elsewhere against real ones.

    An image is of the layout of the real image whose name, without its suffix, its own begins with; several such images
    are styles of it. Names are looked at where `source` is known: images of no layout are left out then, and layouts
    without an image, too. Raises InputError for a folder without images, EvaluationError where no name fits.
    """
    files = image_files(images)
    if source is None:
        return Subject(images.name, tuple(Sample(file) for file in files), tuple(real), protocol)
    by_place = _places(files, real)
    if not by_place:
        raise EvaluationError(
            f"{images}: no image's name begins with that of an image of {source.summary.folder}, such as "
            f"{real[0].image.stem!r}; name images after those whose layouts they show, or compare without layouts by "
            "--against"
        )
    if extra := len(files) - sum(map(len, by_place.values())):
        progress.note(f"note: {images}: {extra} of {len(files)} images are of no layout; they are left out")
    if missing := len(real) - len(by_place):
        progress.note(f"note: {images}: {missing} of {len(real)} layouts have no image; they are left out")
    places = sorted(by_place)
    samples = [Sample(file, k, style) for k, place in enumerate(places) for style, file in enumerate(by_place[place])]
    kept = tuple(real[place] for place in places)
    return Subject(images.name, tuple(samples), kept, protocol, replace(source, examples=kept))


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders in the order of their names, so that it does not depend on the file
    system's. Pictures of a SampleSet that show masks and the like are none. Raises InputError where there are none."""
    with reading(folder):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of images; name the one that holds the image files")
        files = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    found = sorted(path for path in files if not _OWN_PICTURES.search(path.stem) and not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); name the folder that does")
    return found


def as_examples(files: Iterable[Path]) -> tuple[Example, ...]:
    """Real images without layouts."""
    return tuple(Example(file, (), (), ()) for file in files)


def _places(files: Sequence[Path], real: Sequence[Example]) -> dict[int, list[Path]]:
    """The images of each layout, by its place in `real`."""
    by_stem = {example.image.stem: place for place, example in enumerate(real)}
    found: dict[int, list[Path]] = {}
    for file in files:
        stems = [
            file.stem,
            *(file.stem[: match.start()] for match in reversed(list(re.finditer(r"[._\- ]", file.stem)))),
        ]
        if stem := next((stem for stem in stems if stem in by_stem), None):
            found.setdefault(by_stem[stem], []).append(file)
    return found
