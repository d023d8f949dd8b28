"""From confusion counts to mean intersection over union. NumPy only, so that the report can use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


def class_iou(counts: Counts) -> Floats:
    """Intersection over union of each class.

    Args:
        counts: (..., C, C) integer, pixels by [truth, prediction].

    Returns:
        (..., C) float64 in [0, 1]; NaN where a class occurs in neither truth nor prediction.
    """
    intersection = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - intersection
    iou: Floats = np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)
    return iou


def mean_iou(counts: Counts) -> Floats:
    """Mean of `class_iou` over the classes that occur: (..., C, C) → (...) float64."""
    iou = class_iou(counts)
    occurs = ~np.isnan(iou)
    return np.where(occurs, iou, 0).sum(-1) / np.maximum(occurs.sum(-1), 1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scores:
    """The three mIoUs that circulate under one name, and IoU by class, of one validation. Fractions, not percent."""

    miou: float
    """Counts summed over the whole set, divided per class, averaged over the classes that occur."""
    miou_image: float
    """The same for each image, averaged over images: the competition's leaderboard."""
    miou_batch: float
    """The same for each batch, averaged over batches: the contest's starter code."""
    iou: Mapping[str, float | None]
    """Class name → pooled IoU; None where the class occurs in neither truth nor prediction."""


def score(counts: Counts, *, classes: Sequence[str], batch_size: int) -> Scores:
    """Scores of a validation set.

    Args:
        counts: (N, C, C) integer, pixels by [image, truth, prediction].
        classes: C names.
        batch_size: Images a batch, for `miou_batch`.
    """
    pooled = counts.sum(0)
    batches = np.stack([counts[i : i + batch_size].sum(0) for i in range(0, len(counts), batch_size)])
    iou = {
        name: None if np.isnan(value) else float(value) for name, value in zip(classes, class_iou(pooled), strict=True)
    }
    return Scores(
        miou=float(mean_iou(pooled)),
        miou_image=float(mean_iou(counts).mean()),
        miou_batch=float(mean_iou(batches).mean()),
        iou=iou,
    )
