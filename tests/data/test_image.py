import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import TRASH190, needs_trash190
from trash_seg.data.image import ImageError, read_header, read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def saved(path: Path, picture: Any, **save: Any) -> Path:
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **save)
    return path


def test_rgb_is_left_as_it_is(tmp_path: Path) -> None:
    assert np.array_equal(read_image(saved(tmp_path / "a.png", PICTURE), width=60, height=40), PICTURE)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE)
    grey = np.asarray(image.convert("L"))
    sixteen = grey.astype(np.uint16) * 256 + 77
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray(grey))
    palette = image.quantize(16)
    palette.info["transparency"] = 3
    grey3 = np.repeat(grey[..., None], 3, axis=2)
    cases: dict[str, tuple[Any, Any]] = {
        "grey.png": (image.convert("L"), grey3),
        "grey_alpha.png": (image.convert("LA"), grey3),
        "sixteen.png": (Image.fromarray(sixteen), grey3),
        "sixteen.tif": (Image.fromarray(sixteen), grey3),
        "alpha.png": (alpha, PICTURE),
        "palette.png": (palette, np.asarray(palette.convert("RGBA").convert("RGB"))),
        "one.png": (image.convert("1"), np.asarray(image.convert("1").convert("RGB"))),
        "cmyk.tif": (image.convert("CMYK"), np.asarray(image.convert("CMYK").convert("RGB"))),
    }
    for name, (picture, expected) in cases.items():
        path = saved(tmp_path / name, picture)
        assert read_header(path).mode != "RGB", name
        assert np.array_equal(read_image(path), expected), name


def test_sixteen_bit_colour_gives_its_high_bytes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE[..., ::-1].astype(np.uint16) * 256 + 99)
    assert read_header(tmp_path / "a.png").mode != "RGB"
    assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_under_which_the_sizes_agree_is_taken(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", PICTURE, exif=exif)
    upright = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) if orientation in (1, 2, 3, 4) else None
    turned = orientation >= 5
    size = {"width": 40, "height": 60} if turned else {"width": 60, "height": 40}
    result = read_image(path, **size)
    assert np.array_equal(result, read_image(path)), "without sizes, EXIF holds"
    assert np.array_equal(np.sort(result, axis=None), np.sort(PICTURE, axis=None))
    if upright is not None:
        assert np.array_equal(result, upright)
    if turned:  # the annotator saw it as stored
        assert np.array_equal(read_image(path, width=60, height=40), PICTURE)


def test_orientation_6_turns_clockwise(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", PICTURE, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(PICTURE, -1))


def test_a_tiff_is_upright(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", PICTURE, tiffinfo={0x0112: 6})
    assert np.array_equal(read_image(path, width=40, height=60), np.rot90(PICTURE, -1))
    with pytest.raises(ImageError, match="its annotations are for 60×40"):
        read_image(path, width=60, height=40)


def test_exif_that_breaks_a_rule_elsewhere_still_turns(tmp_path: Path) -> None:
    """Its compression, a whole number, is stored as a fraction; Pillow cannot write that again."""
    compression = struct.pack("<HHII", 0x0103, 5, 1, 38)
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + compression + orientation + struct.pack("<III", 0, 6, 1)
    path = saved(tmp_path / "a.png", PICTURE, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(PICTURE, -1))


def test_exif_cut_short_is_none(tmp_path: Path) -> None:
    assert np.array_equal(read_image(saved(tmp_path / "a.png", PICTURE, exif=b"Exif\0\0II*\0")), PICTURE)


def test_a_program_is_no_image(tmp_path: Path) -> None:
    """Pillow would start Ghostscript."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match="does not decode"):
        read_image(tmp_path / "a.jpg")


def test_another_size_in_either_orientation_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PICTURE)
    with pytest.raises(ImageError, match=r"a\.png: is 60×40, its annotations are for 40×60") as raised:
        read_image(path, width=40, height=60)
    assert raised.value.code == "size-mismatch"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of a TIFF
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_files_cut_short_are_an_error(tmp_path: Path, suffix: str, kept: float) -> None:
    path = saved(tmp_path / f"a.{suffix}", PICTURE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(ImageError, match=r"a\.\w+: does not decode") as raised:
        read_image(path)
    assert raised.value.code == "broken-image"


def test_no_file_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as raised:
        read_image(tmp_path / "none.jpg")
    assert raised.value.code == "missing-image"
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ImageError) as raised:
        read_image(tmp_path / "text.jpg")
    assert raised.value.code == "broken-image"


@needs_trash190
def test_photographs_decode_as_with_opencv() -> None:
    for path in sorted((TRASH190 / "images").iterdir())[::10]:
        assert np.array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)), path
