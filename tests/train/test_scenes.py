"""Procedural scenes: what a picture holds, and the COCO folder that the command writes."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from conftest import ROOT, Cli, fails_in_one_line
from lostgan_serve.errors import OutputError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.synthetic import dataset
from lostgan_train.synthetic.compose import LEAST_SHARE, Scene, draw_scene
from training import Heard

SIDE_PX = 32


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, SIDE_PX) for seed in range(200)]


def test_every_label_is_drawn_and_scenes_are_neither_bare_nor_crowded(scenes: list[Scene]) -> None:
    drawn = Counter(label for scene in scenes for label in set(scene.labels))
    assert set(drawn) == set(Vocabulary.built_in("scenes"))
    assert min(drawn.values()) >= 0.03 * len(scenes), drawn
    assert np.mean([3 <= len(scene.labels) <= 12 for scene in scenes]) > 0.9


def test_masks_are_disjoint_and_none_is_tiny(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (SIDE_PX, SIDE_PX, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.labels), SIDE_PX, SIDE_PX)
        assert scene.masks.sum(0).max() == 1
        assert scene.masks.mean((1, 2)).min() >= LEAST_SHARE


def test_a_seed_draws_the_same_scene_twice_and_other_seeds_draw_others(scenes: list[Scene]) -> None:
    again = draw_scene(7, SIDE_PX)
    assert (again.labels, again.kind) == (scenes[7].labels, scenes[7].kind)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    np.testing.assert_array_equal(again.masks, scenes[7].masks)
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_the_composition_is_the_same_at_every_size() -> None:
    for seed in range(10):
        small, large = draw_scene(seed, 64), draw_scene(seed, 256)
        assert small.kind == large.kind
        few, many = _shares(small), _shares(large)
        assert all(abs(few[label] - many[label]) < 0.01 for label in few | many)
        shrunk = np.asarray(Image.fromarray(large.image).resize((64, 64), Image.Resampling.BOX), np.float32)
        assert np.abs(shrunk - small.image).mean() < 4


def _shares(scene: Scene) -> Counter[str]:
    """How much of the picture each label has."""
    shares: Counter[str] = Counter()
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        shares[label] += mask.mean()
    return shares


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 scenes from seed 40, drawn in this process."""
    out = tmp_path_factory.mktemp("scenes") / "drawn"
    dataset.write_dataset(out, 150, SIDE_PX, first_seed=40, workers=1)
    return out


def test_pycocotools_reads_the_folder_and_masks_come_back_whole(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "annotations.json"))
    assert coco.getImgIds() == list(range(40, 190))
    for seed in range(40, 60):
        scene, annotations = draw_scene(seed, SIDE_PX), coco.loadAnns(coco.getAnnIds(seed))
        assert [coco.cats[each["category_id"]]["name"] for each in annotations] == list(scene.labels)
        for mask, annotation in zip(scene.masks, annotations, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
        (image,) = coco.loadImgs(seed)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "images" / image["file_name"])), scene.image)


def test_annotations_are_in_the_format_of_coco_stuff(folder: Path) -> None:
    content: dict[str, Any] = json.loads((folder / "annotations.json").read_bytes())
    vocabulary = Vocabulary.built_in("scenes")
    assert {each["name"]: each["id"] for each in content["categories"]} == {
        label: vocabulary.id_of(label) for label in vocabulary
    }
    kinds = {each["name"]: each["supercategory"] for each in content["categories"]}
    assert (kinds["sky"], kinds["road"], kinds["sun"], kinds["person"]) == ("stuff", "stuff", "thing", "thing")
    assert set(content["images"][0]) >= {"id", "file_name", "width", "height"}
    assert [each["id"] for each in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    fields = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
    assert all(set(each) == fields and each["iscrowd"] == 0 for each in content["annotations"])
    assert sorted(path.name for path in folder.iterdir()) == ["annotations.json", "images"]


def test_an_interrupted_command_goes_on_and_ends_in_the_same_files(folder: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    arguments = ["scenes", "--out", out, "--count", 150, "--res", SIDE_PX, "--first-seed", 40, "--workers", 2]
    command = [sys.executable, "-c", _INTERRUPTED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.split()[-1]) == (128 + signal.SIGINT, "stopped")
    assert not (out / "annotations.json").exists()
    drawn = out / "images" / "00000040.png"
    before = drawn.stat().st_mtime_ns

    done = cli(*arguments, check=True)
    assert "150 scenes of 32 x 32 px" in done.stdout
    assert drawn.stat().st_mtime_ns == before
    assert _contents(out) == _contents(folder)
    fails_in_one_line(cli(*arguments, "--res", 64), [out, "holds other scenes"])


_INTERRUPTED = """
import os, signal, sys
from lostgan_serve.commands import main
from lostgan_train.synthetic import dataset

write_file = dataset.write_file
def write_and_interrupt(path, data):
    write_file(path, data)
    if path.name == "00000040.json":
        os.kill(os.getpid(), signal.SIGINT)

dataset.write_file = write_and_interrupt
main(sys.argv[1:])
"""
"""The command, and Ctrl-C once its first 100 scenes are safe."""


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_progress_counts_scenes_and_what_was_drawn_before(folder: Path) -> None:
    heard = Heard()
    dataset.write_dataset(folder, 150, SIDE_PX, first_seed=40, progress=heard)
    assert heard.lines == [f"{folder}: all 150 scenes are drawn already"]


@pytest.mark.parametrize("side_px", [0, 28, 130, 4096])
def test_a_bad_size_is_refused_before_anything_is_written(side_px: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"{side_px} px: scenes are drawn at multiples of 4 from 32 to 1024"):
        dataset.write_dataset(tmp_path / "scenes", 1, side_px)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_in_one_line(cli: Cli, tmp_path: Path) -> None:
    fails_in_one_line(cli("scenes", "--out", tmp_path / "new", "--res", 130), ["130 px", "multiples of 4"])
    (tmp_path / "thesis.txt").touch()
    fails_in_one_line(cli("scenes", "--out", tmp_path, "--count", 1), [tmp_path, "not empty"])
    fails_in_one_line(cli("scenes", "--out", tmp_path / "thesis.txt" / "x", "--count", 1), ["thesis.txt/x", "write"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "annotations.json").write_text("{")
    fails_in_one_line(cli("scenes", "--out", tmp_path / "broken", "--count", 1), ["holds other scenes"])


def test_seeds_end_somewhere(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="seeds run from 0 to 99999999"):
        dataset.write_dataset(tmp_path / "scenes", 2, SIDE_PX, first_seed=10**8 - 1)


def test_a_full_disk_is_one_line_and_nothing_half_written(cli: Cli, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path / "scenes")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    fails_in_one_line(done, ["scenes", "File too large"])
    assert [path.name for path in (tmp_path / "scenes" / "images").iterdir()] == []


_FULL_DISK = """
import resource, signal, sys
from lostgan_serve.commands import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
main(["scenes", "--out", sys.argv[1], "--count", "20", "--res", "64", "--workers", "2"])
"""


def test_the_commands_import_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, lostgan_train.commands; print(sorted({'torch', 'numpy', 'PIL', 'pycocotools'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
