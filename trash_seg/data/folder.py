"""Images and index masks in folders: `<split>/images/NAME.jpg` beside `<split>/masks/NAME.png`."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trash_seg.data.coco import ImageRecord
from trash_seg.data.findings import Finding
from trash_seg.data.image import DECODE_ERRORS, FORMATS, ImageError, image_suffixes

MASK_MODES = ("L", "P", "1")
"""Grey, palette (its indices count, not its colours), black and white."""


def read_folder(root: Path, name: str, *, findings: list[Finding]) -> tuple[list[ImageRecord], str]:
    """Pairs the images of a split with their masks. Hidden files are no part of it.

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
    records, suffixes, num_images = [], image_suffixes(), 0
    entries, masks = (sorted((folder / kind).glob("[!.]*")) for kind in ("images", "masks"))
    for path in entries:
        if path.suffix.lower() not in suffixes or path.is_dir():
            text = f"{path}: not read, being none of {', '.join(FORMATS)} [other-file]"
            findings.append(Finding("other-file", name, text))
            continue
        num_images += 1
        image_name, mask_name = f"{name}/images/{path.name}", f"{name}/masks/{path.stem}.png"
        try:
            records.append(ImageRecord(image_name, *_mask_size(root / mask_name), mask_name=mask_name))
        except ImageError as error:
            findings.append(Finding(error.code, name, f"{error} [{error.code}]", image=image_name))
    stems = {path.stem for path in entries}
    for path in masks:
        if path.suffix == ".png" and path.stem not in stems:
            text = f"{path}: there is no image of this name in {folder / 'images'} [unused-mask]"
            findings.append(Finding("unused-mask", name, text))
    if not num_images:
        findings.append(Finding("empty-split", name, f"{name}: {folder / 'images'} holds no images [empty-split]"))
    names = "\n".join(record.file_name for record in records)
    return records, hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def _mask_size(path: Path) -> tuple[int, int]:
    """(width, height) of a file that looks like an index mask.

    Raises:
        ImageError: It is missing, no image, or no index mask.
    """
    try:
        with Image.open(path) as mask:
            mode, size = mask.mode, mask.size
    except FileNotFoundError as error:
        raise ImageError(f"{path}: is not there, and an image is", code="missing-mask") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{path}: does not decode ({error})", code="broken-mask") from error
    if mode not in MASK_MODES:
        raise ImageError(f"{path}: mode {mode}; a mask holds one 8-bit class index a pixel", code="broken-mask")
    return size


def read_mask(path: Path, *, num_classes: int) -> npt.NDArray[np.uint8]:
    """Decodes an index mask.

    Returns:
        (H, W) uint8 class index.

    Raises:
        ImageError: It does not decode, or holds an index that no class has.
    """
    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except DECODE_ERRORS as error:
        raise ImageError(f"{path}: does not decode ({error})", code="broken-mask") from error
    highest = int(mask.max())
    if highest >= num_classes:
        text = f"{path}: holds index {highest}, data.classes has 0 to {num_classes - 1}"
        raise ImageError(text, code="unknown-index")
    return mask.astype(np.uint8)
