"""Draws annotations into class-index masks, with pycocotools."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from trash_seg.data.coco import Annotation, ImageRecord
from trash_seg.data.geometry import rle_counts

Mask = npt.NDArray[np.uint8]


def draw_mask(record: ImageRecord, *, overlap: str) -> Mask:
    """The mask of an image.

    Args:
        record: Its annotations, checked.
        overlap: `highest_class`: the pixelwise maximum of the class index. `smallest_on_top`: painted by falling area
            in pixels; of equal ones the later in the file is on top.

    Returns:
        (height, width) uint8 class index, 0 where nothing is drawn.
    """
    by_column = np.zeros(record.width * record.height, np.uint8)
    rles = [encode(annotation, width=record.width, height=record.height) for annotation in record.annotations]
    for index in _painting_order(record.annotations, rles, overlap):
        np.copyto(by_column, record.annotations[index].class_index, where=_inside(rles[index]))
    return np.asarray(cv2.transpose(by_column.reshape(record.width, record.height)), np.uint8)


def decode(rle: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """(height, width) bool of an RLE. pycocotools' own `decode` is deprecated usage to numpy 2."""
    height, width = rle["size"]
    return _inside(rle).reshape(width, height).T


def _inside(rle: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """(width * height,) bool: down the columns, as an RLE goes."""
    runs = rle_counts(rle["counts"])
    assert runs is not None
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def encode(annotation: Annotation, *, width: int, height: int) -> dict[str, Any]:
    """The annotation as pycocotools' compressed RLE; the parts of a polygon are united."""
    segmentation = annotation.segmentation
    if isinstance(segmentation, list):
        rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return rle


def _painting_order(annotations: Sequence[Annotation], rles: list[dict[str, Any]], overlap: str) -> list[int]:
    if not rles:
        return []
    if overlap == "highest_class":
        return sorted(range(len(rles)), key=lambda i: annotations[i].class_index)
    areas = coco_mask.area(rles)
    return sorted(range(len(rles)), key=lambda i: -int(areas[i]))
