"""True masks as annotation files state them, and what is measured with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle  # type: ignore[import-untyped]

from data_files import PETS, box_of, image_of, paint, pets, write_coco
from lostgan_evaluate.metrics import nearest_masks, object_maps
from lostgan_evaluate.sampling import layouts_of
from lostgan_evaluate.subject import Sample, Subject
from lostgan_serve.contract import NO_OBJECT, Array
from lostgan_serve.errors import EvaluationError
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import Result
from lostgan_serve.render import object_picture
from lostgan_train.data import open_data
from lostgan_train.data.masks import WHOLE, cut, objects_of, read_masks, without_masks
from lostgan_train.synthetic.compose import draw_scene
from lostgan_train.synthetic.dataset import FIRST_HELD_OUT_SEED, write_dataset
from measuring import perfect, tools_in


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 8, 64, workers=1, held_out=True)
    return folder


def square(left: int, top: int, side: int, size: int = 100) -> Array:
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    return mask


def forms(left: int, top: int, side: int) -> dict[str, Any]:
    """A square in every form that COCO's annotations have."""
    right, bottom = left + side, top + side
    polygon = [left, top, right, top, right, bottom, left, bottom]
    code = rle.encode(square(left, top, side))
    flat = square(left, top, side).ravel("F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {
        "polygons": [polygon],
        "polygon alone": polygon,
        "compressed": {"size": [100, 100], "counts": code["counts"].decode()},
        "uncompressed": {"size": [100, 100], "counts": counts},
    }


def own_set(folder: Path, segmentation: Any) -> Path:
    annotations = [box_of(1, 1, 30, [10, 20, 40, 40], segmentation=segmentation), box_of(2, 1, 4, [50, 50, 50, 50])]
    return write_coco(folder, [image_of(1)], annotations, PETS)


@pytest.mark.parametrize("form", forms(0, 0, 1))
def test_masks_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    folder = own_set(tmp_path / "pets", forms(10, 20, 40)[form])
    source = open_data(folder)
    dog, cat = sorted(objects_of(source.examples[0]), key=lambda item: item.box)
    found = read_masks(folder, "train", source.vocabulary, [dog, cat])
    assert np.array_equal(found[dog].pixels(), square(10, 20, 40).astype(bool))
    assert found.keys() <= {dog, cat}
    assert read_masks(folder, "train", source.vocabulary, [dog]).keys() == {dog}


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [100, 100], "counts": "~~~~~~~"},
        {"size": [100, 100], "counts": "4"},  # cut off
        {"size": [50, 100], "counts": rle.encode(square(0, 0, 9, 50))["counts"].decode()},
        {"size": [100, 100], "counts": [5, 9999]},
        {"size": [100, 100], "counts": [10_000]},  # nothing of it is there
        {"size": "large"},
        [[1, 2, 3]],
        [["a", "b", "c", "d", "e", "f"]],
        "a square",
    ],
)
def test_damaged_masks_are_left_out(segmentation: Any, tmp_path: Path) -> None:
    folder = own_set(tmp_path / "pets", segmentation)
    source = open_data(folder)
    wanted = objects_of(source.examples[0])
    assert len(wanted) == 2
    assert not any(item.label == 2 for item in read_masks(folder, "train", source.vocabulary, wanted))


def test_scenes_have_the_masks_that_were_drawn(held_out: Path) -> None:
    source = open_data(held_out, split="val")
    wanted = [item for example in source.examples for item in objects_of(example)]
    found = read_masks(held_out, "val", source.vocabulary, wanted)
    assert found.keys() == set(wanted)
    for example in source.examples:
        drawn = draw_scene(int(example.image.stem), 64)
        for item in objects_of(example):
            same = [np.array_equal(found[item].pixels(), mask) for mask in drawn.masks]
            assert drawn.labels[same.index(True)] == source.vocabulary.labels[item.label]
    assert FIRST_HELD_OUT_SEED in {int(example.image.stem) for example in source.examples}


def test_coco_stuff_states_masks_in_two_files(tmp_path: Path) -> None:
    for name, key, label in (("instances", 1, "person"), ("stuff", 106, "clouds")):
        boxes = [(0, 0, 40), (30, 40, 50)] if name == "instances" else [(5, 5, 90)]
        annotations = [
            box_of(key + n, 7, key, [x, y, side, side], segmentation=forms(x, y, side)["compressed"])
            for n, (x, y, side) in enumerate(boxes)
        ]
        document = {
            "images": [image_of(7, "7.jpg")], "annotations": annotations, "categories": [{"id": key, "name": label}],
        }  # fmt: skip
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/{name}_val2017.json").write_text(json.dumps(document))
    paint(tmp_path / "val2017/7.jpg")
    source = open_data(tmp_path, split="val")
    wanted = objects_of(source.examples[0])
    found = read_masks(tmp_path, "val", source.vocabulary, wanted)
    sides = [int(np.sqrt(found[item].pixels().sum())) for item in wanted]
    assert sorted(sides) == [40, 50, 90]


def test_a_box_is_cut_out_of_a_mask() -> None:
    mask = square(40, 20, 20).astype(bool)
    assert cut(mask, (0.4, 0.2, 0.2, 0.2), 32).all()
    assert not cut(mask, (0.0, 0.0, 0.4, 1.0), 32).any()
    assert np.array_equal(cut(mask, (0.4, 0.1, 0.2, 0.2), 10)[:, 0], [False] * 5 + [True] * 5)
    assert np.array_equal(cut(mask, WHOLE, 100), mask)
    assert np.array_equal(cut(mask, WHOLE, 50), mask[::2, ::2])
    assert cut(mask, (0.9, 0.9, 0.1 + 1e-9, 0.1), 8).shape == (8, 8)


def test_object_maps_of_true_masks_are_perfect(held_out: Path, tmp_path: Path) -> None:
    subject = perfect(held_out, tmp_path / "samples")
    assert object_maps.METRIC.why_not(subject, tools_in(tmp_path)) is None
    (score,) = object_maps.METRIC.measure(subject, tools_in(tmp_path)).scores
    assert (score.name, score.value) == ("object_map_iou", 1)
    assert set(score.by_label.values()) == {1.0}
    assert 0.3 < score.facts["box_iou"] < 0.95
    assert score.facts["objects"] == sum(len(example.labels) for example in subject.real)


def test_an_object_that_owns_nothing_counts_as_nothing(held_out: Path, tmp_path: Path) -> None:
    """The map of one image is emptied: all of its objects have an IoU of 0, and the others one of 1."""
    subject = perfect(held_out, tmp_path / "samples")
    emptied, example = subject.samples[0], subject.real[0]
    assert emptied.objects is not None
    assert subject.source is not None
    layout = _layout(subject, emptied)
    names = tuple(item.id for item in layout.objects)
    blank = np.full((64, 64), NO_OBJECT, np.uint8)
    object_picture(Result(layout, names, object_map=blank)).save(emptied.objects)
    (score,) = object_maps.METRIC.measure(subject, tools_in(tmp_path)).scores
    count = sum(len(one.labels) for one in subject.real)
    assert score.value == pytest.approx(1 - len(example.labels) / count)


def _layout(subject: Subject, sample: Sample) -> Layout:
    assert subject.source is not None
    assert sample.place is not None
    return layouts_of(subject.real, subject.source.vocabulary, subject.protocol)[sample.place]


def test_an_object_map_is_read_back_as_it_was(held_out: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layout = _layout(perfect(held_out, tmp_path / "samples"), Sample(tmp_path, 0))
    for side in (64, 128, 600):
        owners = rng.choice([0, 1, 2, NO_OBJECT], (side, side)).astype(np.uint8)
        file, objects = tmp_path / f"{side}.png", tmp_path / f"{side}.objects.png"
        Image.new("RGB", (side, side)).save(file)
        object_picture(Result(layout, ("a", "b", "c"), object_map=owners)).save(objects)
        assert np.array_equal(object_maps.object_map_of(Sample(file, 0, 0, objects)), owners)


def test_boxes_alone_give_no_iou_but_a_reason(tmp_path: Path, held_out: Path) -> None:
    subject = perfect(held_out, tmp_path / "samples")
    own = pets(tmp_path / "pets")
    document = json.loads((own / "annotations.json").read_text())
    for annotation in document["annotations"]:
        annotation["segmentation"] = []
    (own / "annotations.json").write_text(json.dumps(document))
    without = replace(subject, data=own, source=open_data(own), real=open_data(own).examples)
    with pytest.raises(EvaluationError, match="no masks"):
        object_maps.METRIC.measure(without, tools_in(tmp_path))
    genome = tmp_path / "genome"
    genome.mkdir()
    for name in ("image_data.json", "objects.json"):
        (genome / name).write_text("[]")
    assert "Visual Genome annotates boxes" in (without_masks(genome) or "")
    elsewhere = replace(subject, samples=tuple(replace(sample, objects=None) for sample in subject.samples))
    for metric in (object_maps.METRIC, nearest_masks.METRIC):
        assert "no object maps" in (metric.why_not(elsewhere, tools_in(tmp_path)) or "")


def test_the_nearest_masks_are_those_that_a_loop_finds() -> None:
    rng = np.random.default_rng(0)
    masks, others = rng.random((5, 1024)) < 0.4, rng.random((40, 1024)) < rng.random((40, 1))
    masks[4] = False
    others[7] = masks[2]
    found, places = nearest_masks.nearest(torch.from_numpy(masks), torch.from_numpy(others), 3)
    for mask, ious, best in zip(masks, found.tolist(), places.tolist(), strict=True):
        every = [(mask & other).sum() / max((mask | other).sum(), 1) for other in others]
        assert ious == pytest.approx(sorted(every, reverse=True)[:3])
        assert [every[place] for place in best] == pytest.approx(ious)
    assert (int(places[2, 0]), float(found[2, 0])) == (7, 1)
    assert found[4].max() == 0  # an empty mask


def test_true_masks_as_learned_ones_score_as_real_ones_do(held_out: Path, scenes: Path, tmp_path: Path) -> None:
    subject = replace(perfect(held_out, tmp_path / "samples"), training=open_data(scenes), training_data=scenes)
    measured = nearest_masks.METRIC.measure(subject, tools_in(tmp_path))
    (score,) = measured.scores
    assert score.name == "nearest_mask_iou"
    assert score.value == pytest.approx(score.real)
    assert 0.5 < score.value < 1
    assert score.value == pytest.approx(np.mean(list(score.by_label.values())))
    known = {label for example in open_data(scenes).examples for label in example.labels}
    assert score.facts["objects"] == sum(label in known for example in subject.real for label in example.labels)
    with Image.open(tmp_path / measured.sheets[0]) as sheet:
        assert sheet.width > 11 * 96


def test_masks_that_training_has_are_found_again(held_out: Path, tmp_path: Path) -> None:
    subject = perfect(held_out, tmp_path / "samples")
    subject = replace(subject, training=subject.source, training_data=held_out)
    (score,) = nearest_masks.METRIC.measure(subject, tools_in(tmp_path)).scores
    assert score.value == pytest.approx(1)
    assert score.real is None  # there are no real masks but those that are searched


def test_masks_of_a_label_are_drawn_by_the_seed(
    held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_masks, "MOST_MASKS", 2)
    subject = perfect(held_out, tmp_path / "samples")
    subject = replace(subject, training=subject.source, training_data=held_out)
    scores = [
        nearest_masks.METRIC.measure(subject, replace(tools_in(tmp_path), seed=seed)).scores[0] for seed in (0, 0, 1)
    ]
    labels = [label for example in subject.real for label in example.labels]
    assert scores[0].facts["true_masks"] == sum(min(labels.count(label), 2) for label in set(labels))
    assert scores[0] == scores[1] != scores[2]
