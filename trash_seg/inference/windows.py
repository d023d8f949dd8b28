"""Windows over an image: one for all of it, or several that overlap where it is much larger than what a network saw."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A part of an image, px."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def place_windows(height: int, width: int, *, size: int | None, overlap: float) -> list[Window]:
    """Windows that cover an image, row by row.

    Args:
        height: Of the image, px.
        width: Likewise.
        size: Largest side of a window, px; None for one window over all.
        overlap: Least share of a window that the next one covers again, in [0, 1).
    """
    if size is None:
        return [Window(0, 0, height, width)]
    rows, columns = _starts(height, size, overlap), _starts(width, size, overlap)
    return [Window(top, left, min(size, height), min(size, width)) for top in rows for left in columns]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """Evenly spread, the first at the start and the last flush with the end."""
    if length <= size:
        return [0]
    step = max(int(size * (1 - overlap)), 1)
    number = -(-(length - size) // step) + 1
    return [round(start) for start in np.linspace(0, length - size, number)]


class Mosaic:
    """Class probabilities of a whole image, from those of its windows. Takes 4 · (C + 1) bytes a pixel."""

    def __init__(self, height: int, width: int, *, num_classes: int) -> None:
        self.total = np.zeros((num_classes, height, width), np.float32)
        self.weight = np.zeros((height, width), np.float32)

    def add(self, window: Window, probabilities: Floats) -> None:
        """Adds one window; its weight falls linearly from the centre to the edges, and is nowhere 0.

        Args:
            window: Where it lies.
            probabilities: (C, S, S), resized bilinearly to the window.
        """
        weight = np.outer(_ramp(window.height), _ramp(window.width))
        rows, columns = window.slices
        for total, seen in zip(self.total, probabilities, strict=True):
            total[rows, columns] += weight * _resize(seen, window.height, window.width)
        self.weight[rows, columns] += weight

    def mean(self) -> Floats:
        """(C, H, W) float32 in [0, 1]; call it once, after the last window."""
        self.total /= self.weight
        return self.total


def upsample_labels(probabilities: Floats, height: int, width: int) -> tuple[Pixels, Floats]:
    """Labels at an image's own size: the largest of the bilinearly resized probabilities.

    Args:
        probabilities: (C, S, S) float32 in [0, 1] that sum to 1 over classes.
        height: Of the image.
        width: Likewise.

    Returns:
        (height, width) uint8 class index, and (height, width) float32, its probability.
    """
    num_classes = len(probabilities)
    labels = np.zeros((height, width), np.uint8)
    highest = np.full((height, width), -1, np.float32)
    # The winner of C classes has at least 1/C, and resizing never exceeds the largest value: the others cannot win.
    for index in np.flatnonzero(probabilities.max((1, 2)) >= 1 / num_classes - 1e-3):
        resized = _resize(probabilities[index], height, width)
        labels[resized > highest] = index
        np.maximum(highest, resized, out=highest)
    return labels, highest


def _resize(plane: Floats, height: int, width: int) -> Floats:
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _ramp(length: int) -> Floats:
    position = np.arange(length)
    return (np.minimum(position, length - 1 - position) + 1).astype(np.float32)
