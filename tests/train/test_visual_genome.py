"""Visual Genome as its authors publish it, and the paper's choice of its images and objects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data_files import Json, names_of, paint, pets
from lostgan_serve.contract import BACKGROUND_BOX, PAD_BOX
from lostgan_serve.errors import DataError, InputError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import LayoutDataset, Source, open_data


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
        path.write_text(json.dumps([*json.loads(path.read_text()), {"image_id": 3, "objects": []}, {"key": 4}]))
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


# Where its files lie, and their versions


@pytest.mark.parametrize("inside", [".", "images"])
def test_images_lie_as_the_official_download_has_them(tmp_path: Path, inside: str) -> None:
    folder = visual_genome(tmp_path / "vg", {1: trees(1), 2: trees(2)})
    for part in ("VG_100K", "VG_100K_2"):
        (folder / inside).mkdir(exist_ok=True)
        (folder / part).rename(folder / inside / part)
    expected = [folder / inside / "VG_100K_2/1.jpg", folder / inside / "VG_100K/2.jpg"]
    assert images_of(open_data(folder, min_instances=1, strict=True)) == expected


@pytest.mark.parametrize(("parts", "named"), [(True, True), (False, True), (False, False)])
def test_images_lie_in_a_folder_that_the_user_names_or_in_images(tmp_path: Path, parts: bool, named: bool) -> None:
    folder = visual_genome(tmp_path / "vg", {1: trees(1), 2: trees(2)})
    images = tmp_path / "pictures" if named else folder / "images"
    images.mkdir()
    expected = []
    for part, name in (("VG_100K_2", "1.jpg"), ("VG_100K", "2.jpg")):
        expected.append(images / part / name if parts else images / name)
        expected[-1].parent.mkdir(exist_ok=True)
        (folder / part / name).rename(expected[-1])
    source = open_data(folder, min_instances=1, strict=True, images=images if named else None)
    assert images_of(source) == expected


def images_of(source: Source) -> list[Path]:
    return [example.image for example in source.examples]


def test_version_1_0_says_id_for_every_id(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg", {1: trees(1), 2: trees(2), 5: trees(5)})
    relate(folder, {1: [("on", 0, 1)], 2: [], 5: [("on", 0, 1)]})
    expected = [
        open_data(folder, min_instances=1, min_predicates=1, split=split).examples for split in ("train", "val")
    ]
    assert [len(examples) for examples in expected] == [1, 1]
    for name in ("image_data", "objects", "relationships"):
        path = folder / f"{name}.json"
        path.write_text(re.sub(r'"(image|object|relationship)_id"', '"id"', path.read_text()))
    for split, examples in zip(("train", "val"), expected, strict=True):
        source = open_data(folder, min_instances=1, min_predicates=1, split=split, strict=True)
        assert source.examples == examples
    path = folder / "objects.json"
    path.write_text(path.read_text().replace('"id": 101', '"id": 100'))
    with pytest.raises(DataError, match=r"image_id 1: objects\[1\].id: object id standing twice \(100\)"):
        open_data(folder, min_instances=1, strict=True)


def test_boxes_go_by_the_files_size_where_image_data_says_another(tmp_path: Path) -> None:
    objects = {key: [*trees(key), vg_object(100 * key + 9, "tree", (450, 20, 100, 50))] for key in (1, 2, 3)}
    folder = visual_genome(tmp_path / "vg", objects)
    paint(folder / "VG_100K_2/1.jpg", (800, 400))
    turned = Image.Exif()
    turned[0x0112] = 6
    paint(folder / "VG_100K/2.jpg", (200, 400))
    Image.open(folder / "VG_100K/2.jpg").save(folder / "VG_100K/2.jpg", exif=turned)
    (folder / "VG_100K_2/3.jpg").write_bytes(b"broken")
    source = open_data(folder, min_instances=1)
    first, second, third = source.examples
    assert (first.size_px, first.boxes[0]) == ((800, 400), (10 / 800, 20 / 400, 100 / 800, 50 / 400))
    assert first.boxes[3] == (450 / 800, 20 / 400, 100 / 800, 50 / 400)
    for example in (second, third):  # as stated: one is turned when it is shown, the other will be told of then
        assert (example.size_px, example.boxes[0]) == ((400, 200), (10 / 400, 20 / 200, 100 / 400, 50 / 200))
    assert source.summary.problems == {"box outside the image": 2}
    assert any(note.endswith("says: 1; boxes go by the files") for note in source.summary.notes)


# The paper's choice of images


Relation = tuple[Any, int, int]


def relate(folder: Path, relations: dict[int, list[Relation]], aliases: str = "on,is on,on top of\n") -> None:
    """Write relationships: of each image the predicate, and the numbers of two of its objects, as `trees` counts."""
    entries = []
    for key, items in relations.items():
        ends = [[{"object_id": 100 * key + n, "x": 1, "names": ["tree"]} for n in pair] for _, *pair in items]
        found = [
            {"predicate": name, "subject": subject, "object": other, "relationship_id": n, "synsets": ["on.r.01"]}
            for n, ((name, *_), (subject, other)) in enumerate(zip(items, ends, strict=True))
        ]
        entries.append({"image_id": key, "relationships": found})
    (folder / "relationships.json").write_text(json.dumps(entries))
    (folder / "relationship_alias.txt").write_text(aliases)


def test_images_stay_with_1_to_30_relationships_between_objects_that_stay(tmp_path: Path) -> None:
    small = vg_object(703, "tree", (0, 0, 31, 31))
    objects = {key: trees(key) for key in range(1, 7)} | {7: [*trees(7), small], 8: trees(8, 2)}
    folder = visual_genome(tmp_path / "vg", objects)
    (folder / "vg_splits.json").write_text(json.dumps({"train": list(objects)}))
    on, near = ("on", 0, 1), ("near", 0, 1)
    relations = {1: [("Is ON ", 0, 1), near], 2: [near], 3: [on] * 30, 4: [on] * 31, 5: [], 7: [("on", 0, 3)], 8: [on]}
    relate(folder, relations)
    source = open_data(folder, min_instances=1, min_predicates=3, strict=True)
    assert names_of(source) == ["1.jpg", "3.jpg"]
    assert source.summary.dropped_images == {
        "with under 1 relationships": 4,
        "with over 30 relationships": 1,
        "with under 3 objects": 1,
    }
    assert source.summary.dropped_objects == {"in images left out": 3 * 5 + 2, "under 32 px": 1}
    assert "2.jpg" in names_of(open_data(folder, min_instances=1, min_predicates=2))
    with pytest.raises(DataError, match=r"no image is left of this Visual Genome.*7 with under 1 relationships"):
        open_data(folder, min_instances=1)


def test_predicates_are_counted_in_training_and_elsewhere_taken_as_written(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg", {key: trees(key) for key in range(1, 10)})
    (folder / "vg_splits.json").write_text(json.dumps({"train": [1, 2], "val": [5, 6, 7], "test": [8, 9]}))
    (folder / "VG_100K/2.jpg").unlink()  # its relationships are counted nevertheless
    on, near = ("on", 0, 1), ("near", 0, 1)
    relate(folder, {1: [on], 2: [on], 5: [on], 6: [("ON", 0, 1)], 7: [("is on", 0, 1)], 8: [near] * 9, 9: [on]})
    names = [names_of(open_data(folder, split=s, min_instances=1, min_predicates=2)) for s in ("val", "test")]
    assert names == [["5.jpg"], ["9.jpg"]]


def test_problems_of_relationships_are_counted(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg", {1: trees(1)})
    broken: list[Any] = [
        7,
        {"predicate": None, "subject": {"object_id": 100}, "object": {"object_id": 101}},
        {"predicate": "on", "object": {"object_id": 101}},
        {"predicate": "on", "subject": {"object_id": 100}, "object": {"object_id": [101]}},
    ]
    relate(folder, {1: [("on", 0, 1)]})
    path = folder / "relationships.json"
    (entry,) = json.loads(path.read_text())
    path.write_text(json.dumps([entry | {"relationships": entry["relationships"] + broken}, entry, {"image_id": 2}]))
    source = open_data(folder, min_instances=1, min_predicates=1)
    assert names_of(source) == ["1.jpg"]
    assert source.summary.problems == {
        "relationship without predicate": 2,
        "relationship without subject": 1,
        "relationship without object": 1,
        "image id standing twice": 1,
        "relationships missing": 1,
    }
    path.write_text(json.dumps([entry | {"relationships": broken[:1]}]))
    with pytest.raises(DataError, match=r"relationships.json: image_id 1: relationships\[0\].predicate: "):
        open_data(folder, min_instances=1, min_predicates=1, strict=True)


def test_the_split_is_read_from_the_file_that_the_user_names(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg", {key: trees(key) for key in (1, 2)})
    splits = tmp_path / "published.json"
    splits.write_text(json.dumps({"train": [1], "val": [], "test": [2]}))
    assert names_of(open_data(folder, splits=splits, min_instances=1)) == ["1.jpg"]
    assert names_of(open_data(folder, splits=splits, split="test", min_instances=1)) == ["2.jpg"]
    for document, words in (
        ({"train": [1, 2], "val": [2]}, "val: image 2 is in 'train', too"),
        ({"train": ["1.jpg"]}, "train: must be a list of image ids"),
        ([1, 2], "train: must be a list of image ids"),
    ):
        splits.write_text(json.dumps(document))
        with pytest.raises(DataError, match=rf"published.json: {words}"):
            open_data(folder, splits=splits)
    with pytest.raises(InputError, match=r"gone.json: cannot be read"):
        open_data(folder, splits=tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"published.json: only Visual Genome has a file of splits"):
        open_data(pets(tmp_path / "pets"), splits=splits)


@pytest.mark.parametrize(("split", "of_paper"), [("train", "62,565"), ("val", "5,506"), ("test", "5,088")])
def test_the_summary_shows_the_papers_count_and_which_rules_were_left_out(
    tmp_path: Path, split: str, of_paper: str
) -> None:
    folder = visual_genome(tmp_path / "vg", {key: trees(key) for key in range(1, 61)})
    for name in ("vg_splits.json", "object_alias.txt"):
        (folder / name).unlink()
    lines = open_data(folder, split=split, min_instances=1).summary.lines()
    assert "no relationships.json: the rule of 1 to 30 relationships is left out" in "\n".join(lines)
    assert f" kept (the paper: {of_paper}), " in "\n".join(lines)
    relate(folder, {key: [("on", 0, 1)] for key in range(1, 61)})
    (folder / "relationship_alias.txt").unlink()
    lines = open_data(folder, split=split, min_instances=1, min_predicates=1).summary.lines()
    assert [line for line in lines if line.startswith("no ")] == [
        "no vg_splits.json: an image's split follows from its id, 80:10:10, not the paper's",
        "no object_alias.txt: synonyms stay classes of their own",
        "no relationship_alias.txt: synonyms stay predicates of their own",
    ]
    assert len(lines) <= 25
