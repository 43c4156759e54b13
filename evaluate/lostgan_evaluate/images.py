"""How image files become pixels before anything is measured: the same for generated and for real images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lostgan_serve.contract import Array
from lostgan_serve.layout import Box
from lostgan_serve.runners.cores import usable_cores
from lostgan_train.data.pixels import decode

Resize = Literal["bilinear", "bicubic", "lanczos"]
Levels = Literal["plain", "stretched"]
FileFormat = Literal["png", "jpeg"]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Reading:
    """How files are read: a part of every result, since figures depend on it.

    side_px: images are resized to a square of this side. resize, antialias: the filter, and whether it widens when it
    shrinks, as PIL's do. levels: "plain", or "stretched" from each image's minimum and maximum to 0 and 255, as the
    original's sample writer did. file_format: "jpeg" encodes and decodes each image once, at quality 95, for a
    comparison with sets that were kept as JPEG.
    """

    side_px: int
    resize: Resize = "bilinear"
    antialias: bool = True
    levels: Levels = "plain"
    file_format: FileFormat = "png"

    def facts(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Region:
    """An image file, or a box in it. size_px: width and height that annotations state, see `Example`. box: x, y, width,
    height in [0, 1]; None for all of the image."""

    file: Path
    size_px: tuple[int, int] | None = None
    box: Box | None = None


def read(region: Region, reading: Reading, side_px: int | None = None) -> Array:
    """Read a region as [S, S, 3] uint8 RGB.

    The whole image is read as `reading` says. Its box is then cut out and resized to `side_px` with the same filter;
    S is `side_px`, by default `reading.side_px`. Raises DataError for a file that does not decode.
    """
    return _read_of_one_file([region], reading, side_px)[0]


def read_all(regions: Sequence[Region], reading: Reading, side_px: int | None = None) -> Tensor:
    """Read regions on all cores, see `read`: [N, 3, S, S] uint8.

    Regions of a file that stand side by side have it decoded once. Raises DataError for a file that does not decode.
    """
    groups = [list(group) for _, group in groupby(regions, key=lambda region: (region.file, region.size_px))]
    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = pool.map(lambda group: _read_of_one_file(group, reading, side_px), groups)
        images = [image for part in parts for image in part]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _read_of_one_file(regions: Sequence[Region], reading: Reading, side_px: int | None) -> list[Array]:
    """Regions of one file."""
    image = _resized(decode(regions[0].file, regions[0].size_px), reading, reading.side_px)
    if reading.levels == "stretched":
        image = Image.fromarray(_stretched(np.asarray(image)))
    if reading.file_format == "jpeg":
        image = _through_jpeg(image)
    boxes = [(0.0, 0.0, 1.0, 1.0) if region.box is None else region.box for region in regions]
    parts = [image.crop(_pixels(box, reading.side_px)) for box in boxes]
    return [np.array(_resized(part, reading, side_px or reading.side_px)) for part in parts]


def _resized(image: Image.Image, reading: Reading, side_px: int) -> Image.Image:
    if image.size == (side_px, side_px):
        return image
    if reading.antialias:
        return image.resize((side_px, side_px), _FILTERS[reading.resize])
    mode = "bicubic" if reading.resize == "bicubic" else "bilinear"
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = F.interpolate(pixels, (side_px, side_px), mode=mode, align_corners=False, antialias=False)
    return Image.fromarray(small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy())


def _stretched(pixels: Array) -> Array:
    low, high = int(pixels.min()), int(pixels.max())
    return ((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)


def _through_jpeg(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def _pixels(box: Box, side_px: int) -> tuple[int, int, int, int]:
    """The pixels that a box covers, one at least: left, top, right, bottom."""
    x, y, width, height = box
    left, top = (min(int(start * side_px), side_px - 1) for start in (x, y))
    right, bottom = (
        min(max(round((a + b) * side_px), low + 1), side_px) for a, b, low in ((x, width, left), (y, height, top))
    )
    return left, top, right, bottom
