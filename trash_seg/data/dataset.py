"""Opens a dataset for training: reads, checks, and gives access to its samples."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from trash_seg.config import DataConfig, RuntimeConfig
from trash_seg.data.coco import ImageRecord
from trash_seg.data.findings import count_warnings, raise_errors
from trash_seg.data.image import read_image
from trash_seg.data.loader import Split
from trash_seg.data.raster import draw_mask
from trash_seg.data.source import check_files, fingerprint, read_source

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """A dataset as a run sees it."""

    train: Split
    val: Split
    classes: list[str]
    fingerprint: str
    """16 hex digits of the annotation files and images, wherever they lie; settings are not in it."""
    warnings: dict[str, int]
    """Code of a finding → number."""
    pixels: npt.NDArray[np.int64]
    """(C,) training pixels of each class, at the run's image size."""


def open_dataset(config: DataConfig, *, image_size: int, runtime: RuntimeConfig) -> Dataset:
    """Reads and checks the dataset.

    Args:
        config: Which.
        image_size: Side S that images and masks are resized to, px.
        runtime: Where the cache lies, and whether to use it.

    Raises:
        DataError: It cannot be trained on; the message names the files and what is wrong with them.
    """
    source = read_source(config, cache_dir=Path(runtime.cache_dir).expanduser())
    raise_errors(source.findings)
    findings = source.findings + check_files(source)
    raise_errors(findings)
    splits = {}
    for part in ("train", "val"):
        records = source.parts[part]
        images = FileImages(source.root, records, image_size=image_size)
        masks = FileMasks(records, image_size=image_size, overlap=config.overlap)
        splits[part] = Split(images, masks, [record.file_name for record in records])
    pixels = np.zeros(len(config.classes), np.int64)
    for index in range(len(splits["train"].names)):
        pixels += np.bincount(splits["train"].masks[index].ravel(), minlength=len(pixels))
    return Dataset(
        splits["train"], splits["val"], list(config.classes), fingerprint(source), count_warnings(findings), pixels
    )


class FileImages:
    """Images read from their files whenever they are asked for."""

    def __init__(self, root: Path, records: list[ImageRecord], *, image_size: int) -> None:
        self.root, self.records, self.image_size = root, records, image_size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        record = self.records[index]
        image = read_image(self.root / record.file_name, width=record.width, height=record.height)
        return resize_image(image, self.image_size)


class FileMasks:
    """Masks drawn whenever they are asked for."""

    def __init__(self, records: list[ImageRecord], *, image_size: int, overlap: str) -> None:
        self.records, self.image_size, self.overlap = records, image_size, overlap

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        return resize_mask(draw_mask(self.records[index], overlap=self.overlap), self.image_size)


def resize_image(image: Pixels, size: int) -> Pixels:
    """(H, W, 3) → (size, size, 3), bilinear as `A.Resize` does it."""
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_mask(mask: Pixels, size: int) -> Pixels:
    """(H, W) → (size, size), nearest pixel as `A.Resize` does it."""
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8)
