"""Training data: folders of any format, the summary, and tensors that repeat exactly."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from shlex import quote
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data_files import (
    BROKEN_ANNOTATIONS,
    PETS,
    box_of,
    boxes_of,
    image_of,
    paint,
    pets,
    write_coco,
)
from lostgan_serve.contract import PAD_BOX
from lostgan_serve.errors import DataError, InputError, TrainingError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Example, LayoutDataset, Source, Summary, load, open_data
from training import OPTIONS


def test_a_folder_of_no_known_format_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"annotations.json and images/.*stuff_train2017.json.*objects.json"):
        open_data(tmp_path)  # in one line: "." takes no line break
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


def test_the_summary_gives_no_reason_that_holds_for_nothing(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "pets", [image_of(1), image_of(2)], boxes_of(1, [4]), PETS)
    assert "objects 1 kept, 0 left out" in open_data(folder).summary.lines()


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


@pytest.mark.parametrize(("kind", "value"), [(np.int32, 200), (np.int32, 40_000), (np.float32, 0.5)])
def test_gray_without_levels_of_black_and_white_is_refused(kind: type, value: float, tmp_path: Path) -> None:
    """It would become black, or white. 16 bits have levels, in a TIFF as in a PNG."""
    deep, usual = tmp_path / "deep.tif", tmp_path / "16.tif"
    Image.fromarray(np.full((8, 8), value, kind)).save(deep)
    Image.fromarray(np.full((8, 8), 25700, np.uint16)).save(usual)
    with pytest.raises(DataError, match=r"deep\.tif: cannot be decoded \(32 bits of gray"):
        LayoutDataset(source_of(deep, strict=True), 8)[0]
    shown = LayoutDataset(source_of(usual, strict=True), 8)[0]["image"]
    assert ((shown + 1) * 127.5).mean() == pytest.approx(100, abs=2)


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


# Metadata


def _png_with(name: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A PNG of one gray, with a chunk before its pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (100, 100, 100)).save(buffer, "PNG")
    png, pixels = buffer.getvalue(), 33
    crc = zlib.crc32(name + content) if crc is None else crc
    chunk = len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big")
    return png[:pixels] + chunk + png[pixels:]


PNG_METADATA = {
    "wrong checksum": (b"tEXt", b"Comment\0hello", 5),
    "endless text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21)), None),
    "endless profile": (b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**21)), None),
    "no EXIF": (b"eXIf", b"garbage", None),
    "EXIF cut off": (b"eXIf", b"MM\0*\0\0\0\x08\0\xff\1\x12", None),
    "density cut off": (b"pHYs", b"ab", None),
    "no gamma": (b"gAMA", b"", None),
    "animation cut off": (b"acTL", b"abc", None),
}


@pytest.mark.parametrize("chunk", PNG_METADATA.values(), ids=PNG_METADATA)
def test_a_png_with_broken_metadata_keeps_its_pixels(
    chunk: tuple[bytes, bytes, int | None], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "metadata.png"
    path.write_bytes(_png_with(*chunk))
    image = LayoutDataset(source_of(path, strict=True), 8)[0]["image"]
    assert ((image + 1) * 127.5).round().unique().tolist() == [100]
    assert not recwarn.list
    path.write_bytes(path.read_bytes()[:-30])  # its pixels are damaged besides
    with pytest.raises(DataError, match=r"metadata\.png: cannot be decoded"):
        LayoutDataset(source_of(path, strict=True), 8)[0]


def test_broken_exif_of_a_jpeg_and_large_images_raise_no_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's name no file, and each would stand on several lines."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    Image.new("RGB", (8, 8), (100, 100, 100)).save(tmp_path / "phone.jpg", exif=exif.tobytes()[:-20])
    image = LayoutDataset(source_of(tmp_path / "phone.jpg", strict=True), 8)[0]["image"]
    assert ((image + 1) * 127.5).round().unique().tolist() == [100]
    assert not recwarn.list


# Processes that load


def _batches(folder: Path, workers: int) -> list[dict[str, torch.Tensor]]:
    dataset = LayoutDataset(open_data(pets(folder)), 64, flip=False)
    return list(load(dataset, [[0, 1], [2, 3], [1, 2]], workers))


@pytest.mark.parametrize(("free_bytes", "shared"), [(2**20, True), (100_000, False)])
def test_batches_go_through_pipes_where_shared_memory_is_small(
    free_bytes: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of 100 kB each are in flight for each process, and two more."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    expected = _batches(tmp_path / "pets", 0)
    found = _batches(tmp_path / "pets", 2)
    assert [batch["image"].is_shared() for batch in found] == [shared] * 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_training_needs_no_shared_memory(scenes: Path, tmp_path: Path) -> None:
    """As in a container: half a megabyte of it, where six batches of 790 kB would be in flight."""
    mount = "mount -t tmpfs -o size=512k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    train = ["lostgan-serve", "train", *OPTIONS, "--batch", 16, "--workers", 2, "--dry-run", "--data", scenes]
    words = shlex.join(map(str, [*train, "--out", tmp_path / "run"]))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && exec {quote(str(Path(sys.executable).parent))}/{words}"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


class _Lost(LayoutDataset):
    """Ends the process that loads its second item, as a lack of memory does."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_lost_process_is_one_line(tmp_path: Path) -> None:
    dataset = _Lost(open_data(pets(tmp_path / "pets")), 64)
    with pytest.raises(
        TrainingError, match=r"pets: a process that loads images was lost .*exited unexpectedly.*Lower --workers"
    ):
        list(load(dataset, [[0], [1], [2]], 1))
