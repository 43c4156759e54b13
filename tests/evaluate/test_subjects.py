"""Models and folders of images as users name them: what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from data_files import pets
from lostgan_evaluate.models import open_model
from lostgan_evaluate.subject import Subject
from lostgan_evaluate.subjects import Choice, subject_of_images, subject_of_model
from lostgan_serve.errors import DataError, EvaluationError, InputError, LostganError
from lostgan_serve.layout import Layout
from lostgan_serve.png import provenance_of
from lostgan_serve.progress import Progress
from lostgan_train.data import open_data
from lostgan_train.synthetic.dataset import write_dataset
from training import Heard


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 6, 64, workers=1, held_out=True)
    return folder


def of_model(checkpoint: Path, choice: Choice, out: Path, progress: Progress | None = None, seed: int = 0) -> Subject:
    return subject_of_model(
        "small", lambda source, side: open_model(checkpoint, source.vocabulary, side, "auto"), choice, out,
        seed=seed, progress=progress or Progress(),
    )  # fmt: skip


def names(subject: Subject) -> list[tuple[str, int | None, int]]:
    return [(sample.file.name, sample.place, sample.style) for sample in subject.samples]


def test_each_layout_is_generated_in_styles_of_its_own(small_checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    choice = Choice(held_out, samples=2, count=3)
    subject = of_model(small_checkpoint, choice, tmp_path, seed=10)
    assert (subject.protocol.name, subject.protocol.split, subject.protocol.samples) == ("scenes-64", "val", 2)
    assert [(place, style) for _, place, style in names(subject)] == [(k, s) for k in range(3) for s in range(2)]
    seeds = []
    for sample in subject.samples:
        found = provenance_of(sample.file)
        assert found is not None
        layout, example = Layout.parse(found["layout"]), subject.example(sample)
        assert sample.file.name.startswith(example.image.stem)
        assert [item.label for item in layout.objects] == [subject_label(subject, k) for k in example.labels]
        assert [item.box for item in layout.objects] == [pytest.approx(box) for box in example.boxes]
        seeds.append(layout.seed)
        assert sample.objects is not None
        assert sample.objects.is_file()
    assert seeds == list(range(10, 16))
    assert len({sample.file.read_bytes() for sample in subject.samples}) == 6


def subject_label(subject: Subject, label: int) -> str:
    assert subject.source is not None
    return subject.source.vocabulary.labels[label]


def test_nothing_is_generated_twice(small_checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    of_model(small_checkpoint, Choice(held_out, samples=2), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    lost = sorted(before)[0]
    lost.unlink()
    of_model(small_checkpoint, Choice(held_out, samples=2), tmp_path)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed <= {lost.name, lost.name.replace(".objects", ""), lost.name.replace(".png", ".objects.png")}
    assert lost.name in changed


def test_what_a_model_cannot_do_is_one_line(
    small_checkpoint: Path, held_out: Path, scenes: Path, tmp_path: Path
) -> None:
    own = pets(tmp_path / "pets")
    wrong: Sequence[tuple[Choice, str]] = (
        (Choice(own), "has 2 labels that the model does not know, such as 'cat'; it generates scenes"),
        (Choice(scenes), "are no split 'val'"),
        (Choice(held_out, protocol="paper-coco-64"), "is for coco-stuff, and the data are scenes"),
        (Choice(held_out, protocol="paper-coco-65"), "there is none of that name; choose from paper-coco-64"),
        (Choice(held_out, training=own), "--training-data .*pets: has other labels"),
    )
    for choice, words in wrong:
        with pytest.raises(LostganError, match=words):
            of_model(small_checkpoint, choice, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layouts_with_too_many_objects_are_passed_over_and_told(small_checkpoint: Path, tmp_path: Path) -> None:
    from lostgan_train.networks.checkpoint import load_checkpoint
    from lostgan_train.networks.runner import GeneratorRunner

    write_dataset(tmp_path / "data", 12, 64, workers=1, held_out=True)
    source = open_data(tmp_path / "data", split="val")
    most = max(len(example.labels) for example in source.examples)
    runner = GeneratorRunner(load_checkpoint(small_checkpoint))
    runner.manifest = runner.manifest.model_copy(update={"slots": most - 1})
    told = Heard()
    choice = Choice(tmp_path / "data", samples=1)
    subject = subject_of_model("small", lambda *_: runner, choice, tmp_path / "out", progress=told)
    fewer = [example for example in source.examples if len(example.labels) < most]
    assert list(subject.real) == fewer
    assert any(f"{len(source.examples) - len(fewer)} layouts have more objects" in line for line in told.lines)


def shown(folder: Path, *files: str, side: int = 48) -> Path:
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (number * 20, 90, 120)).save(folder / name)
    return folder


def test_images_are_matched_to_layouts_by_their_names(held_out: Path, tmp_path: Path) -> None:
    first, second, third = (example.image.stem for example in open_data(held_out, split="val").examples[:3])
    theirs = shown(
        tmp_path / "theirs",
        *(f"{first}.jpg", f"{second}_0.png", f"{second}_1.png", f"deep/{third}-sample.jpeg"),
        *("readme_figure.png", f"{first}0.png"),
    )
    told = Heard()
    subject = subject_of_images(theirs, None, Choice(held_out), progress=told)
    assert names(subject) == [
        (f"{first}.jpg", 0, 0), (f"{second}_0.png", 1, 0), (f"{second}_1.png", 1, 1), (f"{third}-sample.jpeg", 2, 0),
    ]  # fmt: skip
    assert [example.image.stem for example in subject.real] == [first, second, third]
    assert subject.protocol.resolution_px == 64  # the nearest to 48
    assert any("2 of 6 images are of no layout" in line for line in told.lines)
    assert any("3 of 6 layouts have no image" in line for line in told.lines)
    with pytest.raises(EvaluationError, match="no image's name begins with that of an image of"):
        subject_of_images(shown(tmp_path / "others", "a.png"), None, Choice(held_out))


def test_two_folders_need_no_layouts(held_out: Path, tmp_path: Path) -> None:
    subject = subject_of_images(shown(tmp_path / "a", "x.png", "y.png"), held_out / "images", Choice())
    assert names(subject) == [("x.png", None, 0), ("y.png", None, 0)]
    assert (len(subject.real), subject.source) == (6, None)
    for folder, error in (("missing", InputError), ("empty", InputError)):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(error):
            subject_of_images(tmp_path / folder, held_out / "images", Choice())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        subject_of_images(tmp_path / "broken", held_out / "images", Choice())


def test_a_set_of_one_s_own_is_one_split(tmp_path: Path) -> None:
    own = pets(tmp_path / "pets")
    theirs = shown(tmp_path / "theirs", *(path.name for path in (own / "images").iterdir()), side=130)
    subject = subject_of_images(theirs, None, Choice(own))
    assert (subject.protocol.name, len(subject.samples)) == ("own-128", len(subject.real))
