"""Images and index masks in folders: `<split>/images/NAME.jpg` beside `<split>/masks/NAME.png`."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trash_seg.data.coco import ImageRecord
from trash_seg.data.findings import Finding
from trash_seg.data.image import DECODE_ERRORS, ImageError, image_suffixes

MASK_MODES = ("L", "P", "1")
"""Grey, palette (its indices count, not its colours), black and white."""


def read_folder(root: Path, name: str, *, findings: list[Finding]) -> tuple[list[ImageRecord], str]:
    """Pairs the images of a split with their masks.

    Args:
        root: The data folder.
        name: The split's folder in it.
        findings: Problems are appended.

    Returns:
        The records in the order of their names, sized as their masks; a digest of the names.
    """
    folder = root / name
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        text = f"{name}: {folder} has no folders images and masks [missing-file]"
        findings.append(Finding("missing-file", name, text))
        return [], ""
    records, suffixes, stems = [], image_suffixes(), set()
    for path in sorted((folder / "images").iterdir()):
        if path.suffix.lower() not in suffixes or path.is_dir():
            text = f"{path}: not read; images lie here and end in {', '.join(sorted(suffixes))} [other-file]"
            findings.append(Finding("other-file", name, text))
            continue
        stems.add(path.stem)
        image_name, mask_name = f"{name}/images/{path.name}", f"{name}/masks/{path.stem}.png"
        try:
            with Image.open(root / mask_name) as mask:
                mode, size = mask.mode, mask.size
        except FileNotFoundError:
            text = f"{image_name}: {root / mask_name} is not there [missing-mask]"
            findings.append(Finding("missing-mask", name, text, image=image_name))
            continue
        except DECODE_ERRORS as error:
            text = f"{root / mask_name}: does not decode ({error}) [broken-mask]"
            findings.append(Finding("broken-mask", name, text, image=image_name))
            continue
        if mode not in MASK_MODES:
            text = f"{_wrong_mode(root / mask_name, mode)} [broken-mask]"
            findings.append(Finding("broken-mask", name, text, image=image_name))
            continue
        records.append(ImageRecord(image_name, *size, mask_name=mask_name))
    for path in sorted((folder / "masks").iterdir()):
        if path.stem not in stems or path.suffix != ".png":
            text = f"{path}: no image in {folder / 'images'} has this mask [unused-mask]"
            findings.append(Finding("unused-mask", name, text))
    if not stems:
        findings.append(Finding("empty-split", name, f"{name}: {folder / 'images'} holds no images [empty-split]"))
    names = "\n".join(record.file_name for record in records)
    return records, hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def read_mask(path: Path, *, num_classes: int) -> npt.NDArray[np.uint8]:
    """Decodes an index mask.

    Returns:
        (H, W) uint8 class index.

    Raises:
        ImageError: It does not decode, or holds an index that no class has.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in MASK_MODES:
                raise ImageError(_wrong_mode(path, image.mode), code="broken-mask")
            mask = np.asarray(image)
    except DECODE_ERRORS as error:
        raise ImageError(f"{path}: does not decode ({error})", code="broken-mask") from error
    highest = int(mask.max())
    if highest >= num_classes:
        text = f"{path}: holds index {highest}, data.classes has 0 to {num_classes - 1}"
        raise ImageError(text, code="unknown-index")
    return mask.astype(np.uint8)


def _wrong_mode(path: Path, mode: str) -> str:
    return f"{path}: mode {mode}; a mask holds one 8-bit class index a pixel"
