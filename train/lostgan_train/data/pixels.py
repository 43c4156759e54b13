"""The pixels of image files, as collections hold them: of any mode, turned, damaged."""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from lostgan_serve.errors import DataError
from lostgan_train.data.records import Example

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns of an image for each value of EXIF's orientation but 1."""


def load_pixels(example: Example, resolution: int) -> npt.NDArray[np.uint8]:
    """[R, R, 3] uint8 RGB: the whole image, stretched to a square by bilinear filtering with antialiasing.

    Raises DataError for a file that does not decode.
    """
    image, size = decode(example.image, example.size_px), (resolution, resolution)
    return np.array(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))


def decode(path: Path, size_px: tuple[int, int] | None = None) -> Image.Image:
    """The image in a file, in RGB and upright; what is transparent is white.

    size_px: the width and height that annotations state, see `Example`. Raises DataError for a file that does not
    decode.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they name no file: a damaged EXIF tag, a very large image
            return _decode(path, size_px)
    except Exception as error:  # decoders of broken files raise whatever comes: OSError, SyntaxError, struct.error ...
        raise DataError(f"{path}: cannot be decoded ({_reason(error)}); replace or remove it") from None


def _decode(path: Path, size_px: tuple[int, int] | None) -> Image.Image:
    """The image in a file, as RGB. Damaged metadata of a PNG are no reason to do without its pixels."""
    try:
        with Image.open(path) as file:
            return _to_rgb(_upright(file, size_px), file.format)
    except Exception:
        pixels = _without_metadata(path.read_bytes())
        if pixels is None:
            raise
    with Image.open(BytesIO(pixels)) as file:
        return _to_rgb(_upright(file, size_px), file.format)


def _without_metadata(png: bytes) -> bytes | None:
    """A PNG file without its chunks of text, color profiles and the like; an intact EXIF chunk stays.

    A chunk is the length of its content, its name, that content and a CRC. None where one of those that make the
    pixels is damaged or missing, and for a file that is no PNG.
    """
    kept, start = [_PNG], len(_PNG)
    if not png.startswith(_PNG):
        return None
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        chunk = png[start:end]
        name, intact = chunk[4:8], zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _PIXEL_CHUNKS and not intact:
            return None
        if name in (*_PIXEL_CHUNKS, b"eXIf") and intact:
            kept.append(chunk)
        if name == b"IEND":
            return b"".join(kept)
        start = end
    return None


def orientation(image: Image.Image) -> int:
    """The EXIF tag of how an image is turned, 1 to 8; 1, which is not at all, where there is none that can be read."""
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged tags raise whatever comes: SyntaxError, struct.error, KeyError ...
        return 1
    return stated if stated in _TURNS else 1


def size_in_file(path: Path, stated: tuple[float, float] | None = None) -> tuple[float, float] | None:
    """The width and height of an image as it is stored, or the stated ones where they are the same, turned as an EXIF
    tag asks. None where the file cannot be read."""
    try:
        with Image.open(path) as file:
            turned = stated == file.size[::-1] and orientation(file) > 4
            return stated if turned else file.size
    except Exception:  # as in `load_pixels`, decoders of broken files raise whatever comes
        return None


def _upright(image: Image.Image, size_px: tuple[int, int] | None) -> Image.Image:
    """Turned as its EXIF tag asks, unless the annotations' size shows that they were drawn on the image as stored."""
    image.load()  # first: what is wrong with the pixels is no matter of the tag
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    return image if size_px == image.size != turned.size else turned


def _to_rgb(image: Image.Image, format: str | None) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and format != "PNG"):  # a PNG of 16 bits is I in older releases of PIL
        raise ValueError(f"32 bits of gray, mode {image.mode}, have no levels of black and white; save it with 8 or 16")
    if image.mode.startswith("I"):  # 16 bits of gray, which `convert` would clip and not scale
        return Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "not an image" if "cannot identify image file" in text else text
