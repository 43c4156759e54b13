"""`synthesize`: data sets that other people's loaders read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco  # type: ignore[import-untyped]
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.errors import OutputError
from lostgan_serve.layout import Layout
from lostgan_serve.pipeline import generate
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.recipe import Choices, Filters
from synthesizing import a_plan, instances

pytestmark = pytest.mark.slow


# what a data set holds


def test_images_are_those_that_generate_makes(made: Path, synthesizer: Runner) -> None:
    plan, records = a_plan(synthesizer), instances(made)["images"]
    for record in records:
        layout = plan.row(record["plan_row"]).with_style(0, record["attempt"])
        assert layout.seed == record["seed"]
        (result,) = generate([layout], synthesizer)
        assert (np.asarray(Image.open(made / "images" / record["file_name"])) == result.image).all()
    assert [record["plan_row"] for record in records] == list(range(14))


def test_annotations_are_the_object_map_s(made: Path, synthesizer: Runner) -> None:
    plan, found = a_plan(synthesizer), instances(made)
    names = {category["id"]: category["name"] for category in found["categories"]}
    for record in found["images"]:
        layout = plan.row(record["plan_row"]).layout
        (result,) = generate([replace(layout, seed=record["seed"], style=None)], synthesizer)
        own = [one for one in found["annotations"] if one["image_id"] == record["id"]]
        assert result.object_map is not None
        seen = [slot for slot in range(len(layout.objects)) if (result.object_map == slot).any()]
        assert [one["name"] for one in own] == [layout.objects[slot].id for slot in seen]
        for one, slot in zip(own, seen, strict=True):
            region = result.object_map == slot
            assert (coco.decode(one["segmentation"]) == region).all()
            assert one["area"] == region.sum()
            rows, columns = np.nonzero(region)
            left, top = columns.min(), rows.min()
            assert one["tight_box"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert one["bbox"] == one["tight_box"]
            drawn = [128 * value for value in layout.objects[slot].box]
            assert one["drawn_box"] == pytest.approx(drawn, abs=1e-3)
            assert 0 < one["visibility"] <= 1
            assert names[one["category_id"]] == layout.objects[slot].label
    assert len({one["id"] for one in found["annotations"]}) == len(found["annotations"])


def test_pycocotools_torchvision_and_supervision_read_it(made: Path) -> None:
    import supervision
    from torchvision.datasets import CocoDetection

    file, images = made / "annotations" / "instances.json", made / "images"
    index = COCO(file)
    assert len(index.getImgIds()) == 14
    for annotation in index.loadAnns(index.getAnnIds()):
        assert index.annToMask(annotation).sum() == annotation["area"]
    for picture, targets in CocoDetection(images, file):
        assert picture.size == (128, 128)
        assert targets
    loaded = supervision.DetectionDataset.from_coco(str(images), str(file), force_masks=True)
    assert len(loaded) == 14
    count = sum(len(detections) for _, _, detections in loaded)
    assert count == len(index.getAnnIds())


def test_a_torchvision_detector_trains_on_it_as_it_is(made: Path) -> None:
    import torch
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    from torchvision.transforms import v2

    transforms = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = CocoDetection(made / "images", made / "annotations" / "instances.json", transforms=transforms)
    loader = torch.utils.data.DataLoader(
        wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels", "masks")),
        batch_size=2,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=28, min_size=128, max_size=128)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    images, targets = next(iter(loader))
    losses = network(list(images), list(targets))
    sum(losses.values()).backward()
    optimizer.step()
    assert {"loss_classifier", "loss_box_reg", "loss_mask"} <= losses.keys()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(weight).all() for weight in network.parameters())


def test_webdataset_reads_its_shards(made: Path) -> None:
    import webdataset

    shards = sorted(map(str, (made / "webdataset").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png", "json"))
    found = instances(made)
    assert [record["image"] for _, record in samples] == found["images"]
    assert [one for _, record in samples for one in record["annotations"]] == found["annotations"]
    for picture, record in samples:
        own = np.asarray(Image.open(made / "images" / record["image"]["file_name"]))
        assert (np.asarray(picture) == own).all()


def test_yolo_boxes_are_coco_s(made: Path) -> None:
    import supervision

    loaded = supervision.DetectionDataset.from_yolo(
        str(made / "images" / "00001"), str(made / "labels" / "00001"), str(made / "data.yaml")
    )
    found = instances(made)
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert loaded.classes == list(names.values())
    records = {Path(record["file_name"]).name: record for record in found["images"]}
    for path, _, detections in loaded:
        own = [one for one in found["annotations"] if one["image_id"] == records[Path(path).name]["id"]]
        assert detections.class_id is not None
        assert [loaded.classes[number] for number in detections.class_id] == [names[one["category_id"]] for one in own]
        corners = [[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in own)]
        assert np.abs(detections.xyxy - np.array(corners)).max() < 1e-2


def test_yolo_polygons_cover_the_segments(synthesizer: Runner, tmp_path: Path) -> None:
    import cv2

    synthesize(a_plan(synthesizer), str(tmp_path / "set"), synthesizer, Choices(("coco", "yolo-seg"), "webp", "drawn"))
    found = instances(tmp_path / "set")
    assert all(one["bbox"] == one["drawn_box"] for one in found["annotations"])
    for record in found["images"]:
        assert record["file_name"].endswith(".webp")
        lines = (tmp_path / "set" / "labels" / record["file_name"]).with_suffix(".txt").read_text("utf-8").splitlines()
        own = [one for one in found["annotations"] if one["image_id"] == record["id"]]
        for line, one in zip(lines, own, strict=True):
            points = np.array(line.split()[1:], float).reshape(-1, 2) * 128
            canvas = np.zeros((128, 128), np.uint8)
            cv2.fillPoly(canvas, [points.round().astype(np.int32)], [1])
            region = coco.decode(one["segmentation"])
            assert (region & ~canvas & 1).sum() == 0  # nothing is lost; holes are filled, parts joined by lines


# filters


def test_refused_images_are_generated_in_other_styles(synthesizer: Runner, tmp_path: Path) -> None:
    plan = a_plan(synthesizer, filters=Filters(duplicates=30), attempts=5)
    counts = synthesize(plan, str(tmp_path / "set"), synthesizer)
    records = instances(tmp_path / "set")["images"]
    assert counts["duplicates"] > 0
    assert counts["images"] == len(records) == len(plan) - counts["given up"]
    assert sum(record["attempt"] > 0 for record in records) > 0
    assert {path.name for path in (tmp_path / "set" / "images").rglob("*.png")} == {
        Path(one["file_name"]).name for one in records
    }
    attempts = sum(record["attempt"] + 1 for record in records) + 5 * counts["given up"]
    assert counts["duplicates"] == attempts - len(records)


def test_agreement_of_mask_and_box(synthesizer: Runner, tmp_path: Path) -> None:
    plain, strict = tmp_path / "plain", tmp_path / "strict"
    synthesize(a_plan(synthesizer), str(plain), synthesizer)
    counts = synthesize(a_plan(synthesizer, filters=Filters(agreement=0.4), attempts=1), str(strict), synthesizer)
    kept = {record["plan_row"] for record in instances(strict)["images"]}
    plan, found = a_plan(synthesizer), instances(plain)
    for record in found["images"]:
        own = [one for one in found["annotations"] if one["image_id"] == record["id"]]
        boxes = [(one["drawn_box"], one["tight_box"]) for one in own]
        worst = min(iou(*pair) for pair in boxes) if len(own) == len(plan.row(record["plan_row"]).layout.objects) else 0
        assert (record["plan_row"] in kept) == (worst >= 0.4)
    assert counts["agreement"] == counts["given up"] == 14 - len(kept)
    assert 0 < len(kept) < 14


def iou(one: list[float], other: list[float]) -> float:
    return float(coco.iou(np.array([one], float), np.array([other], float), [0])[0, 0])


def test_a_classifier_and_a_detector_score_objects(synthesizer: Runner, tmp_path: Path) -> None:
    import torch

    labels = len(synthesizer.manifest.vocabulary)

    class Bright(torch.nn.Module):
        """Sure of every label in crops that are bright, of none in dark ones."""

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            bright = (crops.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0.5).float()
            return torch.zeros(crops.shape[0], labels) + 30 * bright * torch.nn.functional.one_hot(
                torch.tensor(1), labels
            )

    class Sees(torch.nn.Module):
        """Finds the sky over the whole image."""

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            box = torch.tensor([[0.0, 0.0, 128.0, 128.0]]) + 0 * image.sum()
            return box, torch.tensor([1]), torch.tensor([0.7])

    many = ({0: torch.export.Dim.DYNAMIC},)
    bright, sees = tmp_path / "bright.onnx", tmp_path / "sees.onnx"
    torch.onnx.export(Bright().eval(), (torch.rand(2, 3, 16, 16),), bright, verbose=False, dynamic_shapes=many)
    torch.onnx.export(Sees().eval(), (torch.rand(3, 128, 128),), sees, verbose=False)
    whole_sky = Layout.parse({"objects": [{"label": "sky", "box": [0, 0, 1, 1]}]})
    half_sky = Layout.parse({"objects": [{"label": "sky", "box": [0, 0, 0.6, 0.6]}]})
    for least, kept in ((0.6, [0]), (0.8, [])):
        plan = a_plan(synthesizer, [whole_sky, half_sky], per_layout=1, filters=Filters(score=least), attempts=2)
        folder = tmp_path / f"set-{least}"
        counts = synthesize(plan, str(folder), synthesizer, Choices(scorer=sees))
        assert [record["plan_row"] for record in instances(folder)["images"]] == kept
        assert counts["score"] == 2 * (2 - len(kept))
    with pytest.raises(OutputError, match="its scorer differ"):
        synthesize(plan, str(folder), synthesizer, Choices(scorer=bright))
    plan = a_plan(synthesizer, [whole_sky], per_layout=12, filters=Filters(score=0.9), attempts=1)
    synthesize(plan, str(tmp_path / "bright"), synthesizer, Choices(scorer=bright))
    kept = [record["plan_row"] for record in instances(tmp_path / "bright")["images"]]
    images = [next(generate([row.with_style(0, 0)], synthesizer)).image for row in plan.rows()]
    small = [
        np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
        for image in images
        if image is not None
    ]
    assert kept == [index for index, image in enumerate(small) if image.mean() / 255 > 0.5]


# bad input


def test_what_cannot_be_done_is_one_line(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    out, example = tmp_path / "out", EXAMPLES[0]
    plain = ("synthesize", example, "--model", tiny_model)
    unknown = tmp_path / "unknown.json"
    unknown.write_text('{"objects": [{"label": "unicorn", "box": [0, 0, 1, 1]}]}', "utf-8")
    fails_in_one_line(cli("synthesize", unknown, "--model", tiny_model, "--out", out), [unknown, "unicorn"])
    fails_in_one_line(cli(*plain), ["--out", "--plan-only"])
    fails_in_one_line(cli(*plain, "--out", out, "--filter", "score=0.5"), ["--scorer"])
    fails_in_one_line(cli(*plain, "--out", out, "--format", "yolo,yolo-seg"), ["yolo-seg", "one of them"])
    fails_in_one_line(cli(*plain, "--out", out, "--url", "localhost:1"), ["localhost:1"])
    fails_in_one_line(cli(*plain, "--out", out, "--filter", "score=0.5", "--scorer", example), [example])
    for option, words in (
        (("--filter", "size=3"), ["there is no 'size'", "min-box"]),
        (("--jitter", "shift=2"), ["2.0 is not in the range 0<=x<=1"]),
        (("--jitter", "shift"), ["'' is not a valid float"]),
        (("--format", "voc"), ["there is no 'voc'", "coco"]),
    ):
        done = cli(*plain, "--out", out, *option)
        assert done.returncode == 2
        assert all(word in done.stderr for word in words), done.stderr
    assert not out.exists()
