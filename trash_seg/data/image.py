"""Decodes images by one stated rule, for the trainer, the doctor and prediction alike."""

import functools
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trash_seg.errors import DataError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is read. Others are no pictures, or are drawn by programs that are better not started."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF orientation. `ImageOps.exif_transpose` also writes the EXIF anew, and fails
where that breaks a rule."""

Image.MAX_IMAGE_PIXELS = 2**30  # Pillow suspects an attack from 89 megapixels on; large photographs are no defect
DECODE_ERRORS = (
    UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for files that are no image, cut short, or corrupt."""


class ImageError(DataError):
    """One image or mask cannot be used.

    Args:
        message: For the user.
        code: Of the finding.
    """

    def __init__(self, message: str, *, code: str = "broken-image") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded."""

    mode: str
    """Pillow's mode; RGB needs no conversion."""
    size: tuple[int, int]
    """(width, height) as stored; of a TIFF upright, as Pillow reads it."""
    orientation: int
    """EXIF orientation, 1 (upright) to 8."""


def image_suffixes() -> frozenset[str]:
    """Of the files that are read, in lower case, with the dot."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def read_header(path: Path) -> Header:
    """Reads the head of a file only.

    Raises:
        ImageError: It is no image, or missing.
    """
    with _open(path) as image:
        return _header(image)


def read_image(path: str | Path, *, width: int | None = None, height: int | None = None) -> Pixels:
    """Decodes an image as 8-bit RGB.

    Grey is repeated, a palette looked up, alpha dropped, CMYK converted by Pillow, and of 16 bit the high byte taken.

    Args:
        path: One of FORMATS.
        width: That its annotations are for. Given width and height, the image is turned by its EXIF orientation if
            that makes the sizes agree, else left as stored if they agree so.
        height: Likewise. Without them the EXIF orientation holds.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ImageError: Missing, does not decode, is cut short, or has another size in either orientation.
    """
    path = Path(path)
    with _open(path) as image:
        expected = None if width is None or height is None else (width, height)
        header = _header(image)
        turned = is_turned(header, expected, path)
        try:
            pixels = _to_rgb(image.transpose(TURNS[header.orientation]) if turned else image)
        except DECODE_ERRORS as error:
            raise ImageError(f"{path}: does not decode, or is cut short ({error})", code="broken-image") from error
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    return pixels


def is_turned(header: Header, expected: tuple[int, int] | None, path: Path) -> bool:
    """Whether the EXIF orientation is to be applied, given the (width, height) that is expected, if any.

    Raises:
        ImageError: The sizes agree in no orientation.
    """
    upright = header.size[::-1] if header.orientation >= 5 else header.size
    if header.orientation != 1 and expected in (None, upright):
        return True
    if expected in (None, header.size):
        return False
    stored, stated = ("×".join(map(str, size)) for size in (header.size, expected or ()))
    raise ImageError(f"{path}: is {stored}, its annotations are for {stated}", code="size-mismatch")


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_known_formats())
    except FileNotFoundError as error:
        raise ImageError(f"{path}: is not there", code="missing-image") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{path}: does not decode ({error})", code="broken-image") from error


@functools.cache
def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _header(image: Image.Image) -> Header:
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", []) if ";16" in str(tile[3])]  # else called RGB too
    orientation = 1
    # Pillow makes a TIFF upright by itself, and would decode a PNG without EXIF to look behind its pixels.
    if image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info):
        with suppress(*DECODE_ERRORS):
            orientation = image.getexif().get(ORIENTATION, 1)
    valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return Header((raw_modes or [image.mode])[0], image.size, orientation if valid else 1)


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bit and more: Pillow's own conversion would clip
        values = np.asarray(image)
        high = values >> 8 if values.dtype.kind in "iu" else values
        return np.repeat(np.clip(high, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return np.asarray(image.convert("RGB"))
