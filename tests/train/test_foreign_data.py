"""Data sets as other tools write them: Label Studio, Roboflow, tables turned into JSON, Windows, older releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conftest import Cli, fails_in_one_line
from data_files import PETS, SCENES, Json, box_of, boxes_of, image_of, names_of, paint, write_coco
from lostgan_serve.commands import main
from lostgan_serve.errors import DataError
from lostgan_train.data import Source, open_data
from training import OPTIONS

LEFT, RIGHT = [0, 0, 40, 40], [50, 0, 40, 40]


def coco(folder: Path, images: list[Json], annotations: list[Any], categories: list[Json] = PETS) -> Path:
    """Write annotations.json alone."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def images_of(source: Source) -> list[Path]:
    return [example.image for example in source.examples]


# Ids


def test_annotations_may_be_numbered_anew_in_each_image(tmp_path: Path) -> None:
    annotations = [box_of(n, image, 4, box) for image in (1, 2, 3) for n, box in enumerate((LEFT, RIGHT))]
    source = open_data(
        write_coco(tmp_path / "set", [image_of(key) for key in (1, 2, 3)], annotations, PETS), strict=True
    )
    assert [len(example.labels) for example in source.examples] == [2, 2, 2]


def test_an_object_standing_twice_is_one(tmp_path: Path) -> None:
    """The same id in one image, for different objects, is no reason to lose one of them."""
    annotations = [box_of(7, 1, 4, LEFT), box_of(7, 1, 4, RIGHT), box_of(7, 1, 30, LEFT), box_of(7, 1, 4, LEFT)]
    source = open_data(write_coco(tmp_path / "set", [image_of(1)], annotations, PETS))
    assert source.examples[0].labels == (1, 1, 2)
    assert source.summary.problems == {"object standing twice": 1}


def test_an_id_of_two_files_leaves_out_both(tmp_path: Path) -> None:
    """Its objects may be of either. The same file listed twice under it is no harm."""
    images = [image_of(1, "a.png"), image_of(1, "b.png"), image_of(2, "c.png"), image_of(2, "c.png")]
    annotations = [*boxes_of(1, [4, 4, 4]), *boxes_of(2, [4, 4, 4])]
    source = open_data(write_coco(tmp_path / "set", images, annotations, PETS))
    assert names_of(source) == ["c.png"]
    assert source.summary.problems["image id standing twice"] == 2


def test_a_link_in_a_circle_hides_no_other_file(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set", [image_of(1, "a.png")], boxes_of(1, [4, 4, 4]), PETS)
    (folder / "images" / "x").symlink_to("x")
    assert names_of(open_data(folder)) == ["a.png"]


def test_a_folder_of_no_known_format_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("train", "--data", tmp_path / "empty", "--out", tmp_path / "run", *OPTIONS)
    fails_in_one_line(done, [tmp_path / "empty", "no data of a known format", "annotations.json and images/"])
    assert "\\n" not in done.stderr


@pytest.mark.parametrize("repeated", [False, True])
def test_a_file_listed_under_several_ids_is_one_image_with_all_objects(tmp_path: Path, repeated: bool) -> None:
    images = [image_of(1, "a.png"), image_of(2, "a.png"), image_of(3, "b.png"), image_of(4, "a.png")]
    annotations = [box_of(1, 1, 4, LEFT), box_of(2, 2, 30, RIGHT), box_of(3, 3, 4, LEFT)]
    annotations += [box_of(4, 4, 4, LEFT)] * repeated
    source = open_data(write_coco(tmp_path / "set", images, annotations, PETS))
    assert names_of(source) == ["a.png", "b.png"]
    assert source.examples[0].labels == (1, 2)
    assert source.summary.problems == ({"object standing twice": 1} if repeated else {})
    assert "image files listed under several ids: 1; their objects are joined" in source.summary.lines()


def test_a_file_listed_in_two_sizes_is_a_problem(tmp_path: Path) -> None:
    images = [image_of(1, "a.png"), image_of(2, "a.png", (50, 50))]
    source = open_data(write_coco(tmp_path / "set", images, [box_of(1, 1, 4, LEFT), box_of(2, 2, 4, LEFT)], PETS))
    assert source.summary.problems == {"image file listed in two sizes": 1}
    assert [len(example.labels) for example in source.examples] == [1]


def test_numbers_may_be_given_as_text(tmp_path: Path) -> None:
    image = image_of(1) | {"id": "1", "width": "100", "height": "100.0"}
    annotations = [
        {
            "id": "1",
            "image_id": 1,
            "category_id": "4",
            "bbox": ["10", "20", 30, "40.0"],
            "iscrowd": "0",
            "score": "0.5",
        },
        {"id": "2", "image_id": 1.0, "category_id": 30.0, "bbox": LEFT, "iscrowd": "false"},
        {"id": "3", "image_id": "1", "category_id": 4, "bbox": LEFT, "iscrowd": "1"},
        {"id": "4", "image_id": "1", "category_id": 4, "bbox": RIGHT, "iscrowd": None},
    ]
    paint(tmp_path / "set/images/0001.png")
    categories = [PETS[0] | {"id": "30"}, PETS[1]]
    (example,) = open_data(coco(tmp_path / "set", [image], annotations, categories), strict=True).examples
    assert example.labels == (1, 2, 1)
    assert example.boxes[0] == (0.1, 0.2, 0.3, 0.4)
    assert example.weights == (0.5, 1, 1)


def test_text_that_only_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    images = [image_of(1, "a.png") | {"id": "01"}, image_of(1, "b.png")]
    annotations = [box_of(1, 1, 4, LEFT) | {"image_id": key} for key in ("01", 1)]
    assert names_of(open_data(write_coco(tmp_path / "set", images, annotations, PETS), strict=True)) == [
        "a.png",
        "b.png",
    ]


def test_a_score_of_null_is_none(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set", [image_of(1)], [box_of(1, 1, 4, LEFT, score=None)], PETS)
    assert open_data(folder, strict=True).examples[0].weights == (1,)


@pytest.mark.parametrize(
    "polygons",
    [[[10, 20, 40, 20, 40, 60]], [10, 20, 40, 20, 40, 60], [[10, 20, 40, 30, 15, 25], ["30", 40, 35, 60, 12, 50]]],
)
@pytest.mark.parametrize("box", [{}, {"bbox": []}, {"bbox": None}])
def test_polygons_alone_are_an_objects_box(polygons: list[Any], box: Json, tmp_path: Path) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 4, "segmentation": polygons} | box
    folder = write_coco(tmp_path / "set", [image_of(1)], [annotation], PETS)
    assert open_data(folder, strict=True).examples[0].boxes == ((0.1, 0.2, 0.3, 0.4),)


@pytest.mark.parametrize(
    "polygons", [[[1, 2]], [[1, 2, "x", 4, 5, 6]], [[1, 2, 3, 4, 5, 6, 7]], {"counts": "x"}, "x", [None]]
)
def test_polygons_that_bound_nothing_are_no_box(polygons: Any, tmp_path: Path) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 4, "segmentation": polygons}
    folder = write_coco(tmp_path / "set", [image_of(1)], [annotation, box_of(2, 1, 4, LEFT)], PETS)
    assert open_data(folder).summary.problems == {"bbox missing": 1}


@pytest.mark.parametrize("sides", [{}, {"width": 0, "height": 0}, {"width": None, "height": 50}])
def test_an_image_without_a_size_has_that_of_its_file(sides: Json, tmp_path: Path) -> None:
    paint(tmp_path / "set/images/0001.png", (200, 100))
    folder = coco(tmp_path / "set", [{"id": 1, "file_name": "0001.png"} | sides], [box_of(1, 1, 4, [50, 50, 50, 50])])
    (example,) = open_data(folder, strict=True).examples
    assert (example.boxes, example.size_px) == (((0.25, 0.5, 0.25, 0.5),), (200, 100))


def test_boxes_as_shares_of_the_image_are_refused(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set", [image_of(1)], [box_of(1, 1, 4, [0, 0.5, 0.5, 0.5])], PETS)
    with pytest.raises(DataError, match=r"annotations.json: annotations: all boxes lie within \[0, 1\]; .*pixels"):
        open_data(folder)


# Names of image files


def read(folder: Path, names: list[str]) -> Source:
    """A set of images with those names, and an object in each, of which that of image k begins at k px."""
    images = [image_of(key, name) for key, name in enumerate(names)]
    return open_data(coco(folder, images, [box_of(key, key, 4, [key, 0, 40, 40]) for key in range(len(names))]))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("own", "other"),
    [("a.png", "/data/batch2/a.png"), ("my cat.png", "http://x/set2/my%20cat.png"), ("a.png", "A.png")],
)
def test_a_file_that_a_name_has_is_no_other_paths(own: str, other: str, order: int, tmp_path: Path) -> None:
    paint(tmp_path / "set/images" / own)
    names = [own, other][::order]
    source = read(tmp_path / "set", names)
    (example,) = source.examples
    assert (example.image.name, example.boxes[0][0]) == (own, names.index(own) / 100)
    assert source.summary.problems == {"image file missing": 1}


@pytest.mark.parametrize("other", ["../images/b.png", "./b.png", "x/../b.png", "images/b.png", "images\\b.png"])
def test_two_paths_of_one_file_are_one_image(other: str, tmp_path: Path) -> None:
    paint(tmp_path / "set/images/b.png")
    (example,) = read(tmp_path / "set", [other, "b.png"]).examples
    assert example.image == tmp_path / "set/images/b.png"
    assert len(example.labels) == 2


@pytest.mark.parametrize("stated", ["x.png", "/data/upload/x.png", "Caf\u00e9/X.PNG"])
@pytest.mark.parametrize("folder", ["images/Train", "data", "images/deep/er"])
def test_names_may_leave_out_a_subfolder(folder: str, stated: str, tmp_path: Path) -> None:
    below = "Cafe\u0301/x.png" if "/X" in stated else "x.png"
    paint(tmp_path / "set" / folder / below)
    assert images_of(read(tmp_path / "set", [stated])) == [tmp_path / "set" / folder / below]


def test_a_name_in_two_subfolders_is_a_problem(tmp_path: Path) -> None:
    for file in ("Train/x.png", "Test/x.png"):
        paint(tmp_path / "set/images" / file)
    with pytest.raises(DataError, match=r"'x.png' is not in images/\); name the folder with --images"):
        read(tmp_path / "set", ["x.png"])


def test_absolute_names_are_sought_in_the_folder_that_is_named(tmp_path: Path) -> None:
    for place in ("there", "here"):
        paint(tmp_path / place / "a.png")
    folder = coco(tmp_path / "set", [image_of(1, str(tmp_path / "there/a.png"))], boxes_of(1, [4]))
    assert images_of(open_data(folder)) == [tmp_path / "there/a.png"]
    assert images_of(open_data(folder, images=tmp_path / "here")) == [tmp_path / "here/a.png"]


@pytest.mark.parametrize(
    "name",
    [
        "images/{}", "images\\{}", ".\\images\\{}", "C:\\Users\\me\\photos\\{}", "D:/photos/{}",
        "\\\\server\\share\\{}", "/data/upload/1/{}", "../../data/upload/1/{}",
        "/data/local-files/?d=photos/{}", "/data/local-files/?d=images\\{}",
        "http://localhost:8080/data/upload/3/{}", "https://example.org/x/{}?raw=1", "s3://bucket/photos/{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("file", "stated"), [("0001.jpg", "0001.jpg"), ("my cat é.jpg", "my%20cat%20%C3%A9.jpg")])
def test_paths_of_other_machines_lead_to_the_file_that_is_here(
    name: str, file: str, stated: str, tmp_path: Path
) -> None:
    paint(tmp_path / "set/images" / file)
    folder = coco(tmp_path / "set", [image_of(1, name.format(stated))], boxes_of(1, [4]))
    assert images_of(open_data(folder, strict=True)) == [folder / "images" / file]
    (folder / "images").rename(tmp_path / "photos")
    assert images_of(open_data(folder, strict=True, images=tmp_path / "photos")) == [tmp_path / "photos" / file]


def test_images_may_lie_beside_their_annotations(tmp_path: Path) -> None:
    folder = coco(
        tmp_path / "set", [image_of(1, "a.png"), image_of(2, "train\\b.png")], boxes_of(1, [4]) + boxes_of(2, [4])
    )
    paint(folder / "a.png")
    paint(folder / "train/b.png")
    assert images_of(open_data(folder, strict=True)) == [folder / "a.png", folder / "train/b.png"]


def test_the_longest_end_of_a_path_counts_and_no_file_stands_for_two(tmp_path: Path) -> None:
    names = ["C:\\photos\\cats\\1.png", "C:\\photos\\dogs\\1.png", "D:\\birds\\2.png", "D:\\fish\\2.png", "fish/2.png"]
    for file in ("cats/1.png", "dogs/1.png", "2.png"):
        paint(tmp_path / "set/images" / file)
    images = [image_of(key, name) for key, name in enumerate(names)]
    folder = coco(tmp_path / "set", images, [box_of(key, key, 4, LEFT) for key in range(5)])
    source = open_data(folder)
    assert images_of(source) == [folder / "images" / name for name in ("cats/1.png", "dogs/1.png", "2.png")]
    assert source.summary.dropped_images == {"image file missing": 2}  # a relative path is taken as it is


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 5000 + "/y.png", "../" * 3000 + "z.png", "", "/"])
def test_a_name_that_no_file_can_have_is_a_missing_image(name: str, tmp_path: Path, cli: Cli) -> None:
    paint(tmp_path / "set/images/0002.png")
    folder = coco(tmp_path / "set", [image_of(1, name), image_of(2)], boxes_of(1, [4]) + boxes_of(2, [4]))
    source = open_data(folder)
    assert names_of(source) == ["0002.png"]
    assert source.summary.problems == {"image file missing": 1}
    "\n".join(source.summary.lines()).encode()


# Categories


PLACEHOLDER = {"id": 0, "name": "animals", "supercategory": "none"}


@pytest.mark.parametrize(
    ("categories", "kept"),
    [
        ([PLACEHOLDER, *({**pet, "supercategory": "animals"} for pet in PETS)], ("cat", "dog")),
        ([{**PLACEHOLDER, "name": "cat"}, *PETS], ("cat", "dog")),
        ([PLACEHOLDER, *PETS], ("animals", "cat", "dog")),  # a class of its own, as far as can be told
        ([*PETS, {"id": 50, "name": "bird", "supercategory": "animal"}], ("cat", "dog", "bird")),
        ([{**PLACEHOLDER, "name": "_background_"}, *PETS], ("cat", "dog")),
        (
            [{**PLACEHOLDER, "name": "none"}, *({**pet, "supercategory": "none"} for pet in PETS)],
            ("none", "cat", "dog"),
        ),
        ([{**PLACEHOLDER, "name": "None"}, *({**pet, "supercategory": None} for pet in PETS)], ("None", "cat", "dog")),
        ([{"id": 4, "name": "animal", "supercategory": "animal"}, PETS[0]], ("animal", "dog")),  # it has annotations
    ],
    ids=["parent", "same name", "no parent", "unused", "background", "none", "null", "used parent"],
)
def test_a_category_that_only_names_the_set_is_left_out(
    categories: list[Json], kept: tuple[str, ...], tmp_path: Path
) -> None:
    source = open_data(write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [4, 30]), categories), strict=True)
    assert tuple(source.vocabulary) == kept
    assert [source.vocabulary.labels[label] for label in source.examples[0].labels][1] == "dog"
    noted = [line for line in source.summary.lines() if line.startswith("category 0")]
    assert bool(noted) == (len(kept) < len(categories))


@pytest.mark.parametrize("count", [1, 3, len(SCENES) - 1])
def test_some_of_the_scenes_categories_are_a_set_of_ones_own(count: int, tmp_path: Path) -> None:
    source = open_data(write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [1]), SCENES[:count]), strict=True)
    assert source.vocabulary.name == "set"
    assert len(source.vocabulary) == count + 1


def test_labels_stay_on_one_line(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": " traffic\r\nlight "}, {"id": 2, "name": "stop\u2028sign\tsmall"}]
    source = open_data(write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [1, 2]), categories))
    assert list(source.vocabulary) == ["traffic light", "stop sign small"]
    categories[1]["name"] = "traffic light"
    with pytest.raises(DataError, match="stand twice: traffic light"):
        open_data(write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [1, 2]), categories))


@pytest.mark.parametrize("name", ["a\0b", "\ud800cat", "cat\x7f", "\n", ""])
def test_a_label_that_cannot_be_printed_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set", [image_of(1)], boxes_of(1, [1]), [{"id": 1, "name": name}])
    arguments = [*OPTIONS, "--data", folder, "--out", tmp_path / "run", "--dry-run"]
    done = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {folder / 'annotations.json'}: categories[0].name")
    assert "cannot be a label" in line
    assert line.isprintable()


# Visual Genome


PARTS = ("VG_100K", "VG_100K_2")


@pytest.mark.parametrize("roots", [("", ""), ("images", "images"), ("images", "images2"), ("images2", "images2")])
@pytest.mark.parametrize("parts", [PARTS, ("", "")])
def test_visual_genomes_archives_may_be_unpacked_anywhere(
    roots: tuple[str, str], parts: tuple[str, str], tmp_path: Path
) -> None:
    folders = [tmp_path / "vg" / root / part for root, part in zip(roots, parts, strict=True)]
    records, objects, expected = [], [], []
    for key in range(1, 5):
        expected.append(folders[key % 2] / f"{key}.jpg")
        paint(expected[-1], (256, 256))
        records.append({"image_id": key, "width": 256, "height": 256, "url": f"https://example.org/{key}.jpg"})
        trees = [{"object_id": n, "names": ["tree"], "x": 9 * n, "y": 0, "w": 60, "h": 60} for n in range(3)]
        objects.append({"image_id": key, "objects": trees})
    for name, content in (("image_data", records), ("objects", objects), ("vg_splits", {"train": ["1", 2, 3, "4"]})):
        (tmp_path / "vg" / f"{name}.json").write_text(json.dumps(content))
    assert images_of(open_data(tmp_path / "vg", min_instances=1, strict=True)) == expected


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize(
    "old", [("image_data",), ("objects", "relationships"), ("image_data", "objects", "relationships")]
)
def test_each_of_visual_genomes_files_may_be_of_another_release(
    old: tuple[str, ...], text: bool, tmp_path: Path
) -> None:
    def number(value: int) -> int | str:
        return str(value) if text else value

    def named(file: str, name: str) -> str:
        return "id" if file in old else f"{name}_id"

    paint(tmp_path / "1.jpg", (256, 256))
    image, owner, related = (named(file, "image") for file in ("image_data", "objects", "relationships"))
    trees = [
        {named("objects", "object"): number(n), "names": ["tree"]} | {side: number(60) for side in "xywh"}
        for n in range(3)
    ]
    ends = [{named("relationships", "object"): number(n)} for n in (0, 1)]
    on = {"predicate": "on", "subject": ends[0], "object": ends[1], named("relationships", "relationship"): 1}
    content: dict[str, Any] = {
        "image_data": [{image: number(1), "width": number(256), "height": number(256), "url": "x/1.jpg"}],
        "objects": [{owner: number(1), "objects": trees}],
        "relationships": [{related: number(1), "relationships": [on]}],
        "vg_splits": {"train": [1]},
    }
    for file, value in content.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(value))
    (example,) = open_data(tmp_path, min_instances=1, min_predicates=1, strict=True).examples
    assert len(example.labels) == 3
