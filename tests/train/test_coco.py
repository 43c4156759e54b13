"""COCO JSON: own detection sets, the built-in scenes, COCO-Stuff 2017, and files that are not right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli, fails_in_one_line
from data_files import (
    BROKEN_ANNOTATIONS,
    PETS,
    SCENES,
    Json,
    box_of,
    boxes_of,
    image_of,
    names_of,
    paint,
    pets,
    write_coco,
)
from lostgan_serve.errors import DataError, InputError, OutputError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import LayoutDataset, open_data
from lostgan_train.synthetic.dataset import FIRST_HELD_OUT_SEED, write_dataset

STUFF = Vocabulary.built_in("coco-stuff")

# A COCO-format set


def test_scenes_are_known_by_their_categories(tmp_path: Path) -> None:
    images = [image_of(key) for key in (1, 2, 3, 4)]
    annotations = [
        *boxes_of(1, [1, 5, 15]),
        *boxes_of(2, [1, 5]),
        *boxes_of(3, [1] * 13),
        *boxes_of(4, [26, 25, 24]),
        box_of(990, 4, 3, [0, 0, 5, 5]),  # 0.25% of the image
        box_of(991, 4, 23, [0, 0, 5, 6]),  # 0.3%
    ]
    source = open_data(write_coco(tmp_path / "set", images, annotations, SCENES))
    assert source.vocabulary == Vocabulary.built_in("scenes")
    assert names_of(source) == ["0001.png", "0004.png"]
    first, last = source.examples
    assert first.labels == (1, 5, 15)
    assert first.boxes[1] == pytest.approx((0.01, 0, 0.5, 0.5))
    assert first.weights == (1, 1, 1)
    assert last.labels == (26, 25, 24, 23)
    assert source.summary.dropped_images == {"with under 3 objects": 1, "with over 12 objects": 1}
    assert source.summary.dropped_objects == {"in images left out": 15, "under 0.3% of the image": 1}


def test_a_set_of_ones_own_brings_its_vocabulary(tmp_path: Path) -> None:
    folder = pets(tmp_path / "pets")
    source = open_data(folder)
    assert source.vocabulary == Vocabulary("pets", ("__image__", "cat", "dog"), slots=8)
    assert len(source.examples) == 4
    assert source.examples[0].image == folder / "images" / "0000.png"
    assert source.examples[0].labels == (2, 1)
    assert source.examples[0].boxes == ((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.5, 0.5))
    assert source.summary.dropped_objects == {"under 0.5% of the image": 4}


@pytest.mark.parametrize(("most", "slots"), [(3, 8), (20, 20), (40, 30)])
def test_its_slots_hold_the_objects_of_most_images(tmp_path: Path, most: int, slots: int) -> None:
    images = [image_of(key) for key in (1, 2, 3)]
    annotations = boxes_of(1, [4] * most) + boxes_of(2, [30] * most) + boxes_of(3, [4])
    source = open_data(write_coco(tmp_path / "pets", images, annotations, PETS))
    assert source.vocabulary.slots == slots
    assert names_of(source) == (["0003.png"] if most > slots else ["0001.png", "0002.png", "0003.png"])


def test_a_set_never_takes_the_name_of_a_built_in_vocabulary(tmp_path: Path) -> None:
    assert open_data(pets(tmp_path / "scenes")).vocabulary.name == "scenes-own"


def test_scores_become_weights_and_crowds_are_left_out(tmp_path: Path) -> None:
    annotations = [
        box_of(1, 1, 4, [0, 0, 50, 50], score=0.5),
        box_of(2, 1, 30, [0, 0, 50, 50]),
        box_of(3, 1, 4, [0, 0, 90, 90], iscrowd=1),
        box_of(4, 1, 4, [0, 0, 90, 90], score=1.5),
    ]
    source = open_data(write_coco(tmp_path / "pets", [image_of(1)], annotations, PETS))
    assert source.examples[0].weights == (0.5, 1.0)
    assert source.summary.dropped_objects == {"crowds": 1, "score impossible": 1}
    weights = LayoutDataset(source, 64)[0]["weights"]
    assert weights.tolist() == [0.5, 1, 0, 0, 0, 0, 0, 0]


def test_synthesized_sets_have_their_annotations_in_a_folder(tmp_path: Path) -> None:
    """Images are in subfolders of images/, and the annotations of a set with both are those of the usual file."""
    images, annotations = [image_of(1, "00000/00000001.png")], boxes_of(1, [1, 5, 15])
    folder = write_coco(tmp_path / "set", images, annotations, SCENES, "annotations/instances.json")
    (example,) = open_data(folder).examples
    assert example.image == folder / "images" / "00000" / "00000001.png"
    assert example.labels == (1, 5, 15)
    write_coco(folder, images, boxes_of(1, [2, 3, 4]), SCENES)
    assert open_data(folder).examples[0].labels == (2, 3, 4)


def test_files_may_lie_in_subfolders_and_be_listed_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1, "a/b/1.png")], boxes_of(1, [4]), PETS)
    path = folder / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_data(folder).examples[0].image == folder / "images/a/b/1.png"


# Drawn scenes for training, and those held out for evaluation


def test_training_sets_have_no_held_out_scenes(cli: Cli, tmp_path: Path) -> None:
    first = FIRST_HELD_OUT_SEED
    for seed, count in ((first, 1), (first - 1, 2), (0, first + 1)):
        with pytest.raises(OutputError, match=f"{count} scenes from seed {seed}: seeds from {first} on are held out"):
            write_dataset(tmp_path / "drawn", count, 32, seed)
    with pytest.raises(OutputError, match=f"2 scenes from seed {first - 1}: held-out scenes start at seed {first}"):
        write_dataset(tmp_path / "drawn", 2, 32, first - 1, held_out=True)
    done = cli("scenes", "--out", tmp_path / "drawn", "--count", 2, "--first-seed", first)
    fails_in_one_line(done, [first, "held out"])
    assert not list(tmp_path.iterdir())


def test_held_out_scenes_are_a_split_of_their_own(tmp_path: Path) -> None:
    last, held_out = tmp_path / "last", tmp_path / "held-out"
    write_dataset(last, 6, 32, FIRST_HELD_OUT_SEED - 6, workers=1)
    write_dataset(held_out, 6, 32, workers=1, held_out=True)
    assert names_of(open_data(last))
    source = open_data(held_out, split="val")
    assert source.vocabulary.name == "scenes"
    assert source.examples[0].image.name >= f"{FIRST_HELD_OUT_SEED}.png"
    with pytest.raises(DataError, match=r"held-out/annotations.json: info.plan: has seeds up to 50000005.*split 'val'"):
        open_data(held_out)
    for folder, split in ((last, "val"), (held_out, "test")):
        with pytest.raises(DataError, match=rf"annotations.json: info.plan: .* are no split '{split}'.*--held-out"):
            open_data(folder, split=split)


def test_scenes_of_both_kinds_in_one_folder_are_neither(tmp_path: Path) -> None:
    """Such folders could be drawn before held-out seeds were refused."""
    folder = write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [1, 5, 15]), SCENES)
    path = folder / "annotations.json"
    document, plan = json.loads(path.read_text()), {"count": 2, "first_seed": FIRST_HELD_OUT_SEED - 1}
    for found, words in ((plan, "held out|are no split"), ({"count": 2}, r"info.plan.first_seed: first_seed missing")):
        info = {"description": "lostgan-serve scenes", "plan": found}
        path.write_text(json.dumps(document | {"info": info}))
        for split in ("train", "val"):
            with pytest.raises(DataError, match=words):
                open_data(folder, split=split)


# COCO-Stuff


def coco_stuff(folder: Path, split: str = "train", pictures: str = "images") -> Path:
    """Four images; only the first and the last have 3 to 8 objects by the paper's rules."""
    size = (200, 100)
    images = [image_of(key, f"{key:012d}.jpg", size) for key in (9, 25, 30, 34)]
    for image in images:
        paint(folder / pictures / image["file_name"], size)
    things = [
        box_of(1, 9, 1, [0, 0, 50, 50]),
        box_of(2, 9, 3, [0, 0, 20, 20]),  # 2% exactly
        box_of(3, 9, 90, [0, 0, 20, 20.01]),
        box_of(4, 9, 1, [0, 0, 200, 100], iscrowd=1, segmentation={"counts": [3, 5], "size": [100, 200]}),
        box_of(5, 25, 1, [0, 0, 50, 50]),
        *boxes_of(30, [1] * 5),
        *boxes_of(34, [1, 1], 90),
    ]
    stuff = [
        box_of(10_000_000, 9, 157, [0, 0, 200, 40]),
        box_of(10_000_001, 9, 183, [0, 40, 200, 60]),
        box_of(10_000_002, 25, 183, [0, 0, 200, 40]),
        box_of(10_000_003, 25, 105, [0, 0, 200, 40]),
        *(box_of(10_000_010 + n, 30, 124, [n, 0, 50, 50]) for n in range(4)),
        box_of(10_000_004, 34, 182, [0, 0, 200, 100.4]),  # rounded beyond the edge
    ]
    for kind, items, keys in (("instances", things, range(1, 91)), ("stuff", stuff, range(92, 184))):
        categories = [{"id": k, "name": STUFF.labels[k] or "other"} for k in keys if STUFF.labels[k] or k == 183]
        path = folder / "annotations" / f"{kind}_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": items, "categories": categories}))
    return folder


@pytest.mark.parametrize(("split", "pictures"), [("train", "images"), ("train", "train2017"), ("val", "val2017")])
def test_coco_stuff_by_the_papers_filters(tmp_path: Path, split: str, pictures: str) -> None:
    folder = coco_stuff(tmp_path, split, pictures)
    source = open_data(folder, split=split, strict=True)
    assert source.vocabulary == STUFF
    assert names_of(source) == ["000000000009.jpg", "000000000034.jpg"]
    assert source.examples[0].image.parent.name == pictures
    assert source.examples[0].labels == (1, 90, 157)
    assert source.examples[1].labels == (1, 1, 182)
    assert source.examples[1].boxes[2] == (0, 0, 1, 1)
    assert source.summary.dropped_images == {"with under 3 objects": 1, "with over 8 objects": 1}
    assert source.summary.dropped_objects == {
        "in images left out": 2 + 9,
        "under 2.0% of the image": 1,
        "crowds": 1,
        "of class other": 2,
    }


def rewrite(path: Path, **added: list[Json]) -> None:
    """Append items to lists of a JSON file."""
    document = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(document | {key: document[key] + items for key, items in added.items()}).encode())


def test_images_without_stuff_are_left_out_as_in_the_paper(tmp_path: Path) -> None:
    folder = coco_stuff(tmp_path, "val", "val2017")
    things, stuff = (folder / f"annotations/{kind}_val2017.json" for kind in ("instances", "stuff"))
    added = [image_of(key, f"{key:012d}.jpg", (200, 100)) for key in (50, 51)]
    for image in added:
        paint(folder / "val2017" / image["file_name"], (200, 100))
    rewrite(things, images=added, annotations=[*boxes_of(50, [1, 2, 3]), *boxes_of(51, [1, 2, 3])])
    rewrite(stuff, annotations=[box_of(10_000_100, 51, 183, [0, 0, 5, 5])])  # a small `other` is stuff enough
    source = open_data(folder, split="val", strict=True)
    assert names_of(source) == ["000000000009.jpg", "000000000034.jpg", "000000000051.jpg"]
    assert source.summary.dropped_images["without stuff annotations"] == 1
    assert source.summary.dropped_objects["in images left out"] == 2 + 9 + 3
    assert source.summary.lines()[1].startswith("images  3 kept (the paper: 3,097), 3 left out: ")
    assert "000000000050.jpg" in names_of(open_data(folder, split="val", stuff_only=False))
    assert open_data(coco_stuff(tmp_path / "train")).summary.lines()[1].startswith("images  2 kept, ")


@pytest.mark.parametrize("box", [[10, 10, 0, 0], [10, 10, 0, 40], [10, 10, -4, 3], [900, 900, 2, 2]])
def test_what_a_filter_leaves_out_is_no_problem_whatever_its_box(tmp_path: Path, box: list[float]) -> None:
    folder = coco_stuff(tmp_path)
    things, stuff = (folder / f"annotations/{kind}_train2017.json" for kind in ("instances", "stuff"))
    rewrite(things, annotations=[box_of(900, 9, 1, box), box_of(901, 9, 1, [0, 0, 0], iscrowd=1)])
    rewrite(stuff, annotations=[box_of(10_000_900, 9, 183, box)])
    dropped = open_data(folder, strict=True).summary.dropped_objects
    assert (dropped["under 2.0% of the image"], dropped["crowds"], dropped["of class other"]) == (2, 2, 3)


def test_images_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    stuff, own = coco_stuff(tmp_path / "stuff"), pets(tmp_path / "pets")
    (stuff / "images").rename(tmp_path / "elsewhere")
    source = open_data(stuff, images=tmp_path / "elsewhere")
    assert source.examples[0].image == tmp_path / "elsewhere/000000000009.jpg"
    (tmp_path / "coco").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "coco/train2017")
    source = open_data(stuff, images=tmp_path / "coco")
    assert source.examples[0].image == tmp_path / "coco/train2017/000000000009.jpg"
    (own / "images").rename(tmp_path / "photos")
    assert open_data(own, images=tmp_path / "photos").examples[0].image == tmp_path / "photos/0000.png"
    with pytest.raises(DataError, match=r"'0000.png' is not in .*/coco/"):
        open_data(own, images=tmp_path / "coco")
    with pytest.raises(InputError, match=r"/gone: no such folder of images"):
        open_data(own, images=tmp_path / "gone")


def test_coco_stuff_needs_both_files_of_the_split(tmp_path: Path) -> None:
    coco_stuff(tmp_path)
    with pytest.raises(DataError, match=r"no split 'val'.*instances_val2017.json and .*stuff_val2017.json"):
        open_data(tmp_path, split="val")
    (tmp_path / "annotations/stuff_train2017.json").unlink()
    with pytest.raises(DataError, match=r"stuff_train2017.json: missing beside instances_train2017.json"):
        open_data(tmp_path)


def test_coco_stuff_with_other_categories_is_refused(tmp_path: Path) -> None:
    path = coco_stuff(tmp_path) / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"bicycle"', '"tricycle"'))
    with pytest.raises(DataError, match=r"instances_train2017.json: category 2 is 'tricycle', in COCO-Stuff 'bicycle'"):
        open_data(tmp_path)


# Problems


@pytest.mark.parametrize(("broken", "kind", "words"), BROKEN_ANNOTATIONS)
def test_a_broken_annotation_is_counted_or_refused(tmp_path: Path, broken: Any, kind: str, words: str) -> None:
    annotations = [box_of(200, 2, 4, [0, 0, 50, 50]), broken, box_of(300, 1, 30, [0, 0, 50, 50])]
    folder = write_coco(tmp_path / "pets", [image_of(1), image_of(2)], annotations, PETS)
    source = open_data(folder)
    assert [example.labels for example in source.examples] == [(2,), (1,)]
    assert source.summary.problems == source.summary.dropped_objects == {kind: 1}
    with pytest.raises(DataError, match=words) as caught:
        open_data(folder, strict=True)
    assert str(folder / "annotations.json") in str(caught.value)
    assert "leave out --strict" in str(caught.value)


BROKEN_IMAGES: list[tuple[Any, str, str]] = [
    (image_of(2, "missing.png"), "image file missing", r"images\[1\].file_name: .*'missing.png' is not in images/"),
    (image_of(2, ""), "image file missing", "file_name"),
    (image_of(1), "image id standing twice", r"images\[1\].id"),
    (image_of(2, size=(-1, 100)), "width impossible", r"images\[1\].width: .*not -1"),
    (image_of(2, "../annotations.json", (0, 100)), "width and height missing", r"images\[1\].width.*cannot be read"),
    ({"id": 2, "width": 100, "height": 100}, "file_name missing", "file_name"),
    (None, "id missing", r"images\[1\].id"),
]


@pytest.mark.parametrize(("broken", "kind", "words"), BROKEN_IMAGES)
def test_a_broken_image_is_counted_or_refused(tmp_path: Path, broken: Any, kind: str, words: str) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1)], boxes_of(1, [4]), PETS)
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "images": [*document["images"], broken]}))
    source = open_data(folder)
    assert names_of(source) == ["0001.png"]
    assert source.summary.problems == {kind: 1}
    assert source.summary.dropped_images[kind] == 1
    with pytest.raises(DataError, match=words):
        open_data(folder, strict=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "annotations.json: not JSON .*line 1"),
        (b"\xff\xfe\x00broken", "annotations.json: not JSON"),
        ("[" * 100_000, "annotations.json: not JSON"),
        (b"\x1f\x8b\x08\x00", "annotations.json: compressed by gzip; .*gunzip"),
        ("[]", "annotations.json: categories: must be a list"),
        ('{"categories": []}', "categories: is empty"),
        ('{"categories": [{"id": "x", "name": "cat"}]}', r"categories\[0\].id: id of a wrong type"),
        ('{"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}', r"categories\[1\].*ids must differ"),
        ('{"categories": [{"id": 1, "name": "cat"}]}', "images: must be a list"),
        ('{"categories": [{"id": 1, "name": "cat"}], "images": [], "annotations": []}', "no image is left"),
        (
            '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}], "images": [], "annotations": []}',
            "categories: .*stand twice: cat",
        ),
    ],
)
def test_a_file_that_is_no_coco_json_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "annotations.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)
