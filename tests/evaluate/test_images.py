"""How images are read, and features kept: everything that has made published numbers differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lostgan_evaluate.features.store import FeatureStore
from lostgan_evaluate.images import Reading, Region, read
from lostgan_evaluate.sampling import image_files
from lostgan_serve.contract import Array
from lostgan_serve.errors import DataError, InputError


def noise(side: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(40, 200, (side, side, 3), dtype=np.uint8)


def saved(path: Path, pixels: Array) -> Region:
    Image.fromarray(pixels).save(path)
    return Region(path)


def test_a_png_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = noise(64)
    assert np.array_equal(read(saved(tmp_path / "a.png", pixels), Reading(64)), pixels)


def test_shrinking_without_antialiasing_gives_another_image(tmp_path: Path) -> None:
    """Stripes of one pixel are grey from afar; without antialiasing they are black or white."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    region = saved(tmp_path / "a.png", stripes)
    for resize in ("bilinear", "bicubic"):
        smooth = read(region, Reading(64, resize)).astype(int)
        assert abs(smooth[8:-8, 8:-8] - 127).max() < 12, resize
        assert smooth.std() < 10
        assert read(region, Reading(86, resize, antialias=False)).std() > 40, resize


def test_jpeg_is_not_png(tmp_path: Path) -> None:
    pixels = noise(64)
    region = saved(tmp_path / "a.png", pixels)
    as_jpeg = read(region, Reading(64, file_format="jpeg"))
    assert 1 < np.abs(as_jpeg.astype(int) - pixels).mean() < 40


def test_levels_are_stretched_as_the_original_s_writer_did(tmp_path: Path) -> None:
    pixels = noise(64)
    stretched = read(saved(tmp_path / "a.png", pixels), Reading(64, levels="stretched"))
    assert (stretched.min(), stretched.max()) == (0, 255)
    low, high = int(pixels.min()), int(pixels.max())
    assert np.abs(stretched - (pixels.astype(float) - low) * 255 / (high - low)).max() <= 0.5
    flat = np.full((64, 64, 3), 90, np.uint8)
    assert read(saved(tmp_path / "flat.png", flat), Reading(64, levels="stretched")).max() == 0


def test_grey_transparent_and_palette_files_are_rgb(tmp_path: Path) -> None:
    grey = noise(32)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read(Region(tmp_path / "grey.png"), Reading(32)), np.stack([grey] * 3, -1))
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:16] = (200, 10, 10, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = read(Region(tmp_path / "clear.png"), Reading(32))
    assert (found[0, 0].tolist(), found[-1, -1].tolist()) == ([200, 10, 10], [255, 255, 255])
    palette = Image.fromarray(noise(32)).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read(Region(tmp_path / "palette.png"), Reading(32)), np.asarray(palette.convert("RGB")))


def test_a_box_is_cut_out_of_the_read_image(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 32:] = 250
    region = saved(tmp_path / "a.png", pixels)
    inside = read(Region(region.file, None, (0.5, 0.25, 0.5, 0.5)), Reading(64), 32)
    assert (inside.shape, inside.min()) == ((32, 32, 3), 250)
    for box in ((0.999, 0.999, 0.001, 0.001), (0.0, 0.0, 1e-6, 1.0)):
        assert read(Region(region.file, None, box), Reading(64), 8).shape == (8, 8, 3)


def test_what_does_not_decode_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be decoded"):
        read(Region(tmp_path / "broken.jpg"), Reading(64))


def test_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c/a.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(8)).save(tmp_path / name)
    for name in (
        "notes.txt",
        ".hidden.png",
        "a.objects.png",
        "a.overlay.png",
        "a.mask-00-sky-1.png",
        "contact-sheet.png",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)] == ["a.jpg", "b.png", "c/a.PNG"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        image_files(tmp_path / "nothing")
    with pytest.raises(InputError, match="no such folder"):
        image_files(tmp_path / "missing")


class Means:
    """An extractor: mean colours. It counts the images that it is given."""

    name, version, side_px, batch = "means", "1", None, 4

    def __init__(self) -> None:
        self.seen = 0

    def features(self, images: Tensor) -> dict[str, Tensor]:
        self.seen += len(images)
        return {"features": images.float().mean((2, 3))}


def test_features_are_computed_once_for_the_same_content(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{k}.png", noise(16, k)) for k in range(6)]
    first, again = Means(), Means()
    found = FeatureStore(tmp_path / "kept", lambda _: first).features("means", files, Reading(16))["features"]
    assert found == pytest.approx(torch.tensor(np.stack([noise(16, k).mean((0, 1)) for k in range(6)])), rel=1e-5)
    copy = saved(tmp_path / "copy.png", noise(16, 3))  # the same bytes under another name
    store = FeatureStore(tmp_path / "kept", lambda _: again)
    shuffled = store.features("means", [files[5], copy, files[0]], Reading(16))["features"]
    assert torch.equal(shuffled, found[[5, 3, 0]])
    assert (first.seen, again.seen) == (6, 0)
    saved(tmp_path / "0.png", noise(16, 50))  # the same name, other bytes
    assert not torch.equal(store.features("means", files[:1], Reading(16))["features"], found[:1])
    store.features("means", files[1:2], Reading(16, levels="stretched"))
    assert again.seen == 2


def test_an_interrupted_or_damaged_store_loses_only_what_is_lost(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{k}.png", noise(8, k)) for k in range(3)]
    broken = tmp_path / "3.png"
    broken.write_bytes(b"no image")
    first, again, last = Means(), Means(), Means()
    kept = tmp_path / "kept"
    FeatureStore(kept, lambda _: first).features("means", files, Reading(8))
    with pytest.raises(DataError, match=r"3\.png"):
        FeatureStore(kept, lambda _: again).features("means", [*files, Region(broken)], Reading(8))
    assert again.seen == 0
    (file,) = kept.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    FeatureStore(kept, lambda _: last).features("means", files, Reading(8))
    assert last.seen == 3
