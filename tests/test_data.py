"""Training data: every format as its authors write it, what is kept and why, and tensors that repeat exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lostgan_serve.contract import BACKGROUND_BOX, PAD_BOX
from lostgan_serve.errors import DataError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Example, LayoutDataset, Source, Summary, open_data

SCENES = [{"id": key, "name": name} for key, name in enumerate(Vocabulary.built_in("scenes").labels) if key]
STUFF = Vocabulary.built_in("coco-stuff")
PETS = [{"id": 30, "name": "dog", "supercategory": "animal"}, {"id": 4, "name": "cat", "supercategory": "animal"}]
RLE = {"size": [100, 100], "counts": "PPYo0"}

Json = dict[str, Any]


def image_of(key: int, name: str | None = None, size: tuple[int, int] = (100, 100)) -> Json:
    return {"id": key, "file_name": name or f"{key:04d}.png", "width": size[0], "height": size[1], "license": 1}


def box_of(key: int, image: int, category: int, box: Sequence[float], **more: Any) -> Json:
    box = list(box)
    annotation = {"id": key, "image_id": image, "category_id": category, "bbox": box, "area": 1200.5, "iscrowd": 0}
    return annotation | {"segmentation": RLE} | more


def boxes_of(image: int, categories: Sequence[int], side: float = 50) -> list[Json]:
    return [box_of(100 * image + n, image, category, [n, 0, side, side]) for n, category in enumerate(categories)]


def paint(path: Path, size: tuple[int, int] = (100, 100)) -> None:
    """A picture whose every pixel is different from its mirror image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, np.full_like(x, sum(map(ord, path.stem)) % 256)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco(
    folder: Path, images: list[Json], annotations: list[Json], categories: list[Json], name: str = "annotations.json"
) -> Path:
    """A COCO JSON and, in images/, whatever of its images is not there yet."""
    document = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for image in images:
        paint(folder / "images" / image["file_name"], (image["width"], image["height"]))
    return folder


def pets(folder: Path, images: int = 4) -> Path:
    """A set of one's own: a dog, a cat and a box too small in every picture."""
    annotations = [
        annotation
        for key in range(images)
        for annotation in (
            box_of(10 * key + 1, key, 30, [10, 20, 30, 40]),
            box_of(10 * key + 2, key, 4, [50, 50, 50, 50]),
            box_of(10 * key + 3, key, 4, [1, 1, 5, 5]),
        )
    ]
    return write_coco(folder, [image_of(key) for key in range(images)], annotations, PETS)


def names_of(source: Source) -> list[str]:
    return [example.image.name for example in source.examples]


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


def test_files_may_lie_in_subfolders_and_be_listed_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1, "a/b/1.png")], boxes_of(1, [4]), PETS)
    path = folder / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_data(folder).examples[0].image == folder / "images/a/b/1.png"


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


# Visual Genome


def vg_object(key: int, name: str, box: Sequence[float] = (10, 20, 100, 50), *more: str) -> Json:
    return {"object_id": key, "names": [name, *more], "x": box[0], "y": box[1], "w": box[2], "h": box[3],
            "synsets": [f"{name}.n.01"], "merged_object_ids": []}  # fmt: skip


def visual_genome(folder: Path, objects: dict[int, list[Json]], size: tuple[int, int] = (400, 200)) -> Path:
    folder.mkdir(exist_ok=True)
    records = []
    for key in objects:
        part = "VG_100K_2" if key % 2 else "VG_100K"
        url = f"https://cs.stanford.edu/people/rak248/{part}/{key}.jpg"
        records.append({"image_id": key, "width": size[0], "height": size[1], "url": url, "coco_id": None})
        paint(folder / part / f"{key}.jpg", size)
    (folder / "image_data.json").write_text(json.dumps(records))
    entries = [{"image_id": key, "objects": items, "image_url": "..."} for key, items in objects.items()]
    (folder / "objects.json").write_text(json.dumps(entries))
    (folder / "object_alias.txt").write_text("tree,trees, a tree\nman,men\n")
    (folder / "vg_splits.json").write_text(json.dumps({"train": [1, 2, 3, 4], "val": [5], "test": [6]}))
    return folder


def trees(image: int, count: int = 3) -> list[Json]:
    return [vg_object(100 * image + n, ("tree", "trees", "a tree")[n % 3]) for n in range(count)]


def test_visual_genome_by_the_rules_of_its_178_classes(tmp_path: Path) -> None:
    mixed = [
        vg_object(1, "dragon", (0, 0, 400, 200), "men"),  # its first frequent name counts
        vg_object(2, "man", (-20, 10, 120, 250)),  # clipped at the edges
        vg_object(3, "man", (0, 0, 31, 100)),
        vg_object(4, "dragon"),
        vg_object(5, "trees", (0, 0, 32, 32)),
        vg_object(6, "man"),
    ]
    objects = {1: mixed, 2: trees(2), 3: trees(3, 2), 4: trees(4, 31), 5: trees(5), 6: trees(6, 30)}
    folder = visual_genome(tmp_path / "vg", objects)
    source = open_data(folder, min_instances=3, strict=True)
    assert source.vocabulary == Vocabulary("vg", ("__image__", "tree", "man"), slots=31, background=True)
    assert names_of(source) == ["1.jpg", "2.jpg"]
    assert source.examples[0].image == folder / "VG_100K_2/1.jpg"
    assert source.examples[0].labels == (2, 2, 1, 2)
    assert source.examples[0].boxes[1] == (0, 0.05, 0.25, 0.95)
    assert source.summary.dropped_images == {"with under 3 objects": 1, "with over 30 objects": 1}
    assert source.summary.dropped_objects == {"in images left out": 33, "under 32 px": 1, "of rare classes": 1}
    assert names_of(open_data(folder, split="val", min_instances=3)) == ["5.jpg"]
    assert names_of(open_data(folder, split="test", min_instances=3)) == ["6.jpg"]


def test_visual_genome_layouts_end_with_the_background(tmp_path: Path) -> None:
    source = open_data(visual_genome(tmp_path / "vg", {1: trees(1)}), min_instances=1)
    item = LayoutDataset(source, 64, flip=False)[0]
    assert item["labels"].tolist() == [1, 1, 1] + [0] * 28
    assert item["boxes"][3].tolist() == list(BACKGROUND_BOX)
    assert item["boxes"][4:].tolist() == torch.tensor(PAD_BOX).repeat(27, 1).tolist()
    assert item["weights"].tolist() == [1] * 4 + [0] * 27


def test_the_178_classes_keep_their_ids(tmp_path: Path) -> None:
    built_in = Vocabulary.built_in("visual-genome")
    names = sorted(built_in)
    objects = {
        key: [vg_object(30 * key + n, name) for n, name in enumerate(names[30 * key - 30 : 30 * key])]
        for key in range(1, 7)
    }
    folder = visual_genome(tmp_path, objects)
    (folder / "vg_splits.json").write_text(json.dumps({"train": list(objects)}))
    source = open_data(folder, min_instances=1)
    assert source.vocabulary == built_in
    assert [built_in.labels[label] for example in source.examples for label in example.labels] == names


def test_without_a_splits_file_a_split_follows_from_the_id(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path, {key: trees(key) for key in range(1, 61)})
    (folder / "vg_splits.json").unlink()
    (folder / "object_alias.txt").unlink()
    opened = [open_data(folder, split=split, min_instances=1) for split in ("train", "val", "test")]
    parts = [names_of(source) for source in opened]
    assert sorted(name for part in parts for name in part) == sorted(f"{key}.jpg" for key in range(1, 61))
    assert len(parts[0]) > 36 > 24 > len(parts[1] + parts[2])
    assert set(opened[1].vocabulary) == {"a tree", "tree", "trees"}
    text = "\n".join(opened[0].summary.lines())
    assert "no vg_splits.json" in text
    assert "no object_alias.txt" in text


def test_visual_genome_leaves_small_images_out_and_says_when_no_class_is_left(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path, {1: trees(1), 2: trees(2)})
    with pytest.raises(DataError, match=r"no usable class stands 2000 times .* 'tree', stands 6 times"):
        open_data(folder)
    path = folder / "image_data.json"
    path.write_text(path.read_text().replace("200", "199", 1))
    source = open_data(folder, min_instances=1)
    assert source.summary.dropped_images == {"under 200 px": 1}
    assert source.summary.dropped_objects == {"in images left out": 3}


def test_problems_of_visual_genome_are_counted(tmp_path: Path) -> None:
    broken: list[Any] = [{"object_id": 90, "names": ["tree"], "x": 1, "y": 1, "w": 50}, {"names": "tree"}, 7]
    outside = [vg_object(91, "tree", (500, 0, 100, 100)), vg_object(91, "tree")]
    folder = visual_genome(tmp_path, {1: trees(1) + broken + outside, 2: trees(2), 3: trees(3)})
    (folder / "VG_100K/2.jpg").unlink()
    for name in ("image_data.json", "objects.json"):
        path = folder / name
        path.write_text(json.dumps([*json.loads(path.read_text()), {"image_id": 3, "objects": []}, {"id": 4}]))
    source = open_data(folder, min_instances=1)
    assert names_of(source) == ["1.jpg", "3.jpg"]
    assert source.summary.problems == {
        "image file missing": 1,
        "image id standing twice": 2,
        "image_id missing": 2,
        "h missing": 1,
        "names missing": 1,
        "names of a wrong type": 1,
        "box outside the image": 1,
        "object id standing twice": 1,
    }
    with pytest.raises(DataError, match=r"image_data.json: \[1\].url: image file missing \('2.jpg' is not in VG_100K/"):
        open_data(folder, min_instances=1, strict=True)


# Problems


BROKEN_ANNOTATIONS: list[tuple[Any, str, str]] = [
    (
        box_of(1, 1, 4, [90, 0, 30, 50]),
        "box outside the image",
        r"annotations\[1\].bbox: box outside.*\[90, 0, 30, 50\]",
    ),
    (box_of(1, 1, 4, [-200, 0, 50, 50]), "box outside the image", "on 100 x 100 px"),
    (box_of(1, 1, 4, [0, 0, 0, 50]), "box without area", r"bbox: box without area"),
    (box_of(1, 1, 4, [0, 0, 50]), "bbox impossible", r"bbox.*four finite numbers, not \[0, 0, 50\]"),
    (box_of(1, 1, 4, [0, 0, float("nan"), 50]), "bbox impossible", "four finite numbers"),
    (box_of(1, 1, 4, [0, 0, 10**400, 50]), "bbox impossible", "four finite numbers"),
    (box_of(1, 1, 5, [0, 0, 50, 50]), "unknown category", r"category_id: unknown category \(5"),
    (box_of(1, 77, 4, [0, 0, 50, 50]), "object of an unknown image", r"image_id: .*77"),
    (box_of(200, 1, 4, [0, 0, 50, 50]), "object id standing twice", r"annotations\[1\].id: .*200"),
    ({"id": 1, "image_id": 1, "category_id": 4}, "bbox missing", r"bbox: bbox missing"),
    ({"id": 1, "image_id": [1], "category_id": 4}, "image_id of a wrong type", r"image_id: .*not \[1\]"),
    ("a box", "image_id missing", r"annotations\[1\].image_id"),
]


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
    (image_of(2, size=(0, 100)), "width impossible", r"images\[1\].width: .*not 0"),
    ({"id": 2, "file_name": "0001.png", "width": 100}, "height missing", r"images\[1\].height"),
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


def test_a_folder_of_no_known_format_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"(?s)annotations.json, images/.*stuff_train2017.json.*objects.json"):
        open_data(tmp_path)
    (tmp_path / "objects.json").write_text("[]")
    with pytest.raises(DataError, match=r"image_data.json: missing"):
        open_data(tmp_path)
    with pytest.raises(DataError, match="split 'dev': there are train, val, test"):
        open_data(tmp_path, split="dev")
    with pytest.raises(DataError, match="all one split"):
        open_data(pets(tmp_path / "pets"), split="val")


def test_no_image_left_says_why(tmp_path: Path) -> None:
    folder = pets(tmp_path / "pets")
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no image is left.*4 image file missing.*'0000.png' is not in images/"):
        open_data(folder)


# The summary


def test_the_summary_reads_well(tmp_path: Path) -> None:
    folder = pets(tmp_path / "pets")
    (folder / "images/0002.png").unlink()
    lines = open_data(folder).summary.lines()
    assert lines == [
        f"{folder}: COCO-format set; vocabulary pets of 2 labels, 8 slots",
        "images  3 kept, 1 left out: 1 image file missing",
        "objects 6 kept, 6 left out: 3 under 0.5% of the image, 3 in images left out",
        "per image: 2 to 2 objects, median 2, mean 2.0  █",
        "labels: 2 used",
        "  dog 3                       cat 3",
        "problems: 1, skipped",
        "  1 x image file missing: annotations.json images[2].file_name '0002.png' is not in images/",
    ]


def test_the_summary_stays_short(tmp_path: Path) -> None:
    categories = [{"id": key, "name": f"class number {key} of very many"} for key in range(200)]
    annotations: list[Any] = [box_of(key, 1 + key % 20, key, [0, 0, 50, 50]) for key in range(150)]
    annotations += [broken for broken, _, _ in BROKEN_ANNOTATIONS]
    folder = write_coco(tmp_path / "many", [image_of(key) for key in range(1, 21)], annotations, categories)
    lines = open_data(folder).summary.lines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 200
    assert any("never: class number 15" in line and "and 42 more" in line for line in lines)
    assert Summary().lines()  # of a source that a program made


# Tensors


def test_an_item_is_the_contracts_tensors(tmp_path: Path) -> None:
    item = LayoutDataset(open_data(pets(tmp_path / "pets")), 64, flip=False)[1]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in item.items()} == {
        "image": (torch.float32, (3, 64, 64)),
        "labels": (torch.int64, (8,)),
        "boxes": (torch.float32, (8, 4)),
        "weights": (torch.float32, (8,)),
    }
    assert item["labels"].tolist() == [2, 1] + [0] * 6
    assert torch.equal(item["boxes"][2:], torch.tensor(PAD_BOX).expand(6, 4))
    assert item["image"].min() >= -1
    assert item["image"].max() <= 1
    assert item["image"].is_contiguous()
    assert item["image"][0, 0, -1] > 0.9 > -0.9 > item["image"][0, 0, 0]


def test_pixels_are_exact_where_sizes_match(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1, size=(64, 64))], boxes_of(1, [4]), PETS)
    image = LayoutDataset(open_data(folder), 64, flip=False)[0]["image"]
    stored = np.asarray(Image.open(folder / "images/0001.png"))
    assert torch.equal(((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(stored.copy()))


def test_shrinking_averages_over_the_pixels(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1, size=(512, 512))], boxes_of(1, [4], 300), PETS)
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(folder / "images/0001.png")
    image = LayoutDataset(open_data(folder), 64)[0]["image"]
    assert image[:, :, 2:-2].abs().max() < 0.02


def test_flips_mirror_image_and_boxes_and_depend_on_seed_epoch_and_index(tmp_path: Path) -> None:
    source = open_data(pets(tmp_path / "pets", 64))
    plain, flipping = LayoutDataset(source, 64, flip=False), LayoutDataset(source, 64, seed=3)
    patterns = []
    for epoch in range(3):
        flipping.set_epoch(epoch)
        pattern = []
        for index in range(64):
            before, after = plain[index], flipping[index]
            pattern.append(not torch.equal(before["image"], after["image"]))
            if pattern[-1]:
                assert torch.equal(after["image"], before["image"].flip(2))
                assert after["boxes"][0].tolist() == pytest.approx([0.6, 0.2, 0.3, 0.4])
                assert after["boxes"][1].tolist() == [0, 0.5, 0.5, 0.5]
                assert torch.equal(after["boxes"][2:], before["boxes"][2:])
            else:
                assert torch.equal(after["boxes"], before["boxes"])
            assert torch.equal(after["labels"], before["labels"])
        assert 16 < sum(pattern) < 48
        patterns.append(pattern)
    assert patterns[0] != patterns[1] != patterns[2] != patterns[0]
    flipping.set_epoch(1)
    again = [not torch.equal(flipping[index]["image"], plain[index]["image"]) for index in range(64)]
    assert again == patterns[1]
    other = LayoutDataset(source, 64, seed=4)
    assert [not torch.equal(other[i]["image"], plain[i]["image"]) for i in range(64)] != patterns[0]


def test_workers_load_what_one_process_loads_and_follow_the_epoch(tmp_path: Path) -> None:
    dataset = LayoutDataset(open_data(pets(tmp_path / "pets", 16)), 64)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        images = torch.cat([batch["image"] for batch in loader])
        assert torch.equal(images, torch.stack([dataset[index]["image"] for index in range(16)]))


def test_a_dataset_needs_a_slot_for_every_object(tmp_path: Path) -> None:
    source = open_data(pets(tmp_path / "pets"))
    assert LayoutDataset(source, 64, slots=2)[0]["labels"].shape == (2,)
    assert LayoutDataset(source, 64, slots=40)[0]["labels"].shape == (40,)
    with pytest.raises(DataError, match="1 slots are too few, some images need 2"):
        LayoutDataset(source, 64, slots=1)
    with pytest.raises(IndexError):
        LayoutDataset(source, 64)[4]


def modes(folder: Path) -> dict[str, tuple[Path, tuple[int, int, int]]]:
    """Files in the modes that collections hold, and the color that each shows."""
    folder.mkdir()
    files = {
        "gray.png": (Image.new("L", (8, 8), 100), (100, 100, 100)),
        "gray16.png": (Image.fromarray(np.full((8, 8), 25700, np.uint16)), (100, 100, 100)),
        "bits.png": (Image.new("1", (8, 8), 1), (255, 255, 255)),
        "palette.png": (Image.new("RGB", (8, 8), (10, 200, 30)).quantize(2), (10, 200, 30)),
        "clear.png": (Image.new("RGBA", (8, 8), (10, 200, 30, 0)), (255, 255, 255)),
        "solid.png": (Image.new("RGBA", (8, 8), (10, 200, 30, 255)), (10, 200, 30)),
        "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
        "gray.jpg": (Image.new("L", (8, 8), 100), (100, 100, 100)),
    }
    for name, (image, _) in files.items():
        image.save(folder / name)
    return {name: (folder / name, color) for name, (_, color) in files.items()}


def source_of(*images: Path, size_px: tuple[int, int] | None = None, strict: bool = False) -> Source:
    examples = tuple(Example(path, (1,), ((0, 0, 1, 1),), (1,), size_px) for path in images)
    return Source(examples, Vocabulary("one", ("__image__", "thing"), slots=1), Summary(strict=strict))


def test_every_mode_of_image_becomes_rgb(tmp_path: Path) -> None:
    files = modes(tmp_path / "modes")
    dataset = LayoutDataset(source_of(*(path for path, _ in files.values())), 8)
    for item, (name, (_, color)) in zip((dataset[i] for i in range(len(files))), files.items(), strict=True):
        shown = ((item["image"][:, 4, 4] + 1) * 127.5).round().tolist()
        assert shown == pytest.approx(color, abs=2), name


@pytest.mark.parametrize(
    ("stated", "turned"), [((20, 40), True), (None, True), ((40, 20), False)], ids=["as-shown", "unknown", "as-stored"]
)
def test_a_rotated_image_lies_as_its_boxes_were_drawn(
    tmp_path: Path, stated: tuple[int, int] | None, turned: bool
) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # the left half; turned clockwise it is the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif)
    image = LayoutDataset(source_of(tmp_path / "phone.jpg", size_px=stated), 8, flip=False)[0]["image"]
    assert (image[:, 1, 6].min() > 0.9) == turned
    assert (image[:, 6, 1].min() > 0.9) != turned


def broken_files(folder: Path) -> list[Path]:
    paint(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    contents = {
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.png": b"<html>404</html>",
        "flipped.png": whole[:60] + bytes(60) + whole[120:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in (*contents, "gone.png")]


def test_broken_files_are_replaced_by_the_next_readable_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = broken_files(tmp_path / "images")
    whole = tmp_path / "images/whole.png"
    dataset = LayoutDataset(source_of(whole, *broken), 8, flip=False)
    for _ in range(2):
        for index in range(6):
            assert torch.equal(dataset[index]["image"], dataset[0]["image"])
    warnings = capfd.readouterr().err.splitlines()
    assert len(warnings) == len(broken)
    assert [name.name for name in broken] == [line.split(": ")[1].rpartition("/")[2] for line in warnings]
    assert dataset.unreadable == tuple(broken)


def test_a_strict_source_refuses_a_broken_file(tmp_path: Path) -> None:
    for path in broken_files(tmp_path / "images"):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be decoded \(.+\); replace or remove it"):
            LayoutDataset(source_of(path, strict=True), 8)[0]


def test_broken_files_are_told_of_once_by_all_workers_together(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = pets(tmp_path / "pets")
    (folder / "images/0001.png").write_bytes(b"")
    dataset = LayoutDataset(open_data(folder), 64, flip=False)
    for _ in range(2):
        first, second = DataLoader(dataset, batch_size=2, num_workers=2)
        assert torch.equal(first["image"][1], second["image"][0])
    assert capfd.readouterr().err.count("0001.png") == 1
    assert dataset.unreadable == (folder / "images/0001.png",)


def test_nothing_but_broken_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 5 images can be decoded"):
        LayoutDataset(source_of(*broken_files(tmp_path / "images")), 8)[0]
