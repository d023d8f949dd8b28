"""Draws annotations into class-index masks, with pycocotools."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from trash_seg.data.coco import Annotation, ImageRecord

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
    mask = np.zeros((record.height, record.width), np.uint8)
    rles = [encode(annotation, width=record.width, height=record.height) for annotation in record.annotations]
    if not rles:
        return mask
    for index in _painting_order(record.annotations, rles, overlap):
        mask[coco_mask.decode(rles[index]) > 0] = record.annotations[index].class_index
    return mask


def encode(annotation: Annotation, *, width: int, height: int) -> dict[str, object]:
    """The annotation as pycocotools' compressed RLE; the parts of a polygon are united."""
    segmentation = annotation.segmentation
    if isinstance(segmentation, list):
        rle: dict[str, object] = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return rle


def _painting_order(annotations: Sequence[Annotation], rles: list[dict[str, object]], overlap: str) -> list[int]:
    if overlap == "highest_class":
        return sorted(range(len(rles)), key=lambda i: annotations[i].class_index)
    areas = coco_mask.area(rles)
    return sorted(range(len(rles)), key=lambda i: -int(areas[i]))
