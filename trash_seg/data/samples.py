"""Samples at the size of a run, read from their files: what the cache holds, and what stands in for it."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from trash_seg.data.coco import ImageRecord
from trash_seg.data.folder import read_mask
from trash_seg.data.image import read_image
from trash_seg.data.raster import draw_mask

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SampleReader:
    """Decodes and draws the samples of a dataset."""

    root: Path
    image_size: int
    """Side S, px."""
    overlap: str
    num_classes: int

    def image(self, record: ImageRecord) -> Pixels:
        """(S, S, 3) uint8 RGB.

        Raises:
            ImageError: It cannot be decoded.
        """
        image = read_image(self.root / record.file_name, width=record.width, height=record.height)
        return resize_image(image, self.image_size)

    def mask(self, record: ImageRecord) -> Pixels:
        """(S, S) uint8 class index.

        Raises:
            ImageError: A mask's file cannot be used.
        """
        return resize_mask(self.full_mask(record), self.image_size)

    def full_mask(self, record: ImageRecord) -> Pixels:
        """(height, width) uint8 class index.

        Raises:
            ImageError: A mask's file cannot be used.
        """
        if record.mask_name is None:
            return draw_mask(record, overlap=self.overlap)
        return read_mask(self.root / record.mask_name, num_classes=self.num_classes)


def resize_image(image: Pixels, size: int) -> Pixels:
    """(H, W, 3) → (size, size, 3), bilinear as `A.Resize` does it."""
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_mask(mask: Pixels, size: int) -> Pixels:
    """(H, W) → (size, size), nearest pixel as `A.Resize` does it."""
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8)


@dataclass(frozen=True)
class FileImages:
    """Images that are read whenever they are asked for."""

    reader: SampleReader
    records: list[ImageRecord]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        return self.reader.image(self.records[index])


@dataclass(frozen=True)
class FileMasks:
    """Masks that are drawn whenever they are asked for."""

    reader: SampleReader
    records: list[ImageRecord]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        return self.reader.mask(self.records[index])


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of an array, in an order of their own."""

    rows: Pixels
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pixels:
        return np.asarray(self.rows[self.indices[index]])
