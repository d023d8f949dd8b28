"""What is wrong with one annotation's segmentation. Nothing here calls pycocotools, which crashes on bad input."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Problem = tuple[str, str]
"""Code and text."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in px."""

MAX_CLIPPED = 1.0
"""px outside the image that are clipped without a word."""
MAX_SIDES_OUTSIDE = 10
"""Coordinates further outside than so many longer sides of the image are absurd."""
BBOX_TOLERANCE, AREA_TOLERANCE = 0.05, 0.10
"""Share of the segmentation's extent and area by which bbox and area may differ, beside a few px."""


def check_segmentation(entry: dict[str, Any], *, width: int, height: int) -> tuple[Any, list[Problem]]:
    """Checks one annotation.

    Returns:
        The segmentation without the parts that cannot be drawn, or None where nothing is left; and the problems.
    """
    segmentation = entry.get("segmentation")
    usable: Any
    if isinstance(segmentation, dict):
        usable, extent, area, problems = _check_rle(segmentation, width, height)
    elif isinstance(segmentation, list):
        usable, extent, area, problems = _check_polygons(segmentation, width, height)
    else:
        found = "missing" if segmentation is None else f"a {type(segmentation).__name__}"
        return None, [("bad-segmentation", f"segmentation is {found}")]
    if entry.get("iscrowd"):
        problems.append(("crowd", "is a crowd region"))
    if usable is not None and extent is not None:
        problems += _check_bbox(entry.get("bbox"), extent, width, height) + _check_area(entry.get("area"), area)
    return usable, problems


def _check_polygons(
    parts: list[Any], width: int, height: int
) -> tuple[list[Any] | None, Box | None, float, list[Problem]]:
    """Usable parts, extent (x0, y0, x1, y1), area, problems."""
    usable, area, problems = [], 0.0, []
    extent: Box | None = None
    far = MAX_SIDES_OUTSIDE * max(width, height)
    outside = 0.0
    for part in parts:
        try:
            points = np.array(part, np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.zeros(())
        if points.ndim != 1:
            return None, None, 0.0, [("bad-segmentation", f"polygon is not a list of numbers: {part!r:.60}")]
        if len(points) % 2:
            problems.append(("odd-polygon", f"polygon with {len(points)} coordinates"))
            continue
        if len(points) < 6:
            problems.append(("short-polygon", f"polygon with {len(points) // 2} points"))
            continue
        pairs = points.reshape(-1, 2)
        (x0, y0), (x1, y1) = pairs.min(axis=0).tolist(), pairs.max(axis=0).tolist()
        beyond = max(-x0, -y0, x1 - width, y1 - height)
        if not math.isfinite(x0 + y0 + x1 + y1) or beyond > far:
            problems.append(("absurd-coordinates", f"coordinates {points.min():g} to {points.max():g}"))
            continue
        outside = max(outside, beyond)
        part_area = polygon_area(points[0::2], points[1::2])
        if part_area == 0 or x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            continue
        usable.append(part)
        extent = (x0, y0, x1, y1) if extent is None else _unite(extent, (x0, y0, x1, y1))
        area += part_area
    if outside > MAX_CLIPPED:
        problems.append(("outside-image", f"reaches {outside:.1f} px outside the {width}×{height} image"))
    if not usable:
        if not problems or outside:
            problems.append(("zero-area", "has no area inside the image"))
        return None, None, 0.0, problems
    return usable, extent, area, problems


def _unite(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def polygon_area(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Area in px² by the shoelace formula."""
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1])) / 2


def _check_rle(
    rle: dict[str, Any], width: int, height: int
) -> tuple[dict[str, Any] | None, Box | None, float, list[Problem]]:
    if rle.get("size") != [height, width]:
        return None, None, 0.0, [("rle-size", f"RLE of size {rle.get('size')}, the image has {[height, width]}")]
    counts = rle_counts(rle.get("counts"))
    if counts is None or (counts < 0).any() or int(counts.sum()) != height * width:
        return None, None, 0.0, [("bad-segmentation", f"RLE counts do not fill {height}×{width} pixels")]
    area = int(counts[1::2].sum())
    if area == 0:
        return None, None, 0.0, [("zero-area", "has no area inside the image")]
    ends = np.cumsum(counts)
    starts, stops = ends[0::2][: len(counts) // 2], ends[1::2]
    drawn = stops > starts
    starts, stops = starts[drawn], stops[drawn] - 1
    crosses = (starts // height != stops // height).any()  # a run over a column's end spans the full height
    low = 0 if crosses else int((starts % height).min())
    high = height if crosses else int((stops % height).max()) + 1
    extent = (float(starts[0] // height), float(low), float(stops[-1] // height + 1), float(high))
    return rle, extent, area, []


def rle_counts(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths of an uncompressed (list) or compressed (str) RLE; None where it is neither.

    The compressed form holds 5 bits a character, from the third run on as the difference to the run before the last
    (`rleFrString` in cocoapi's maskApi.c).
    """
    if isinstance(counts, list):
        try:
            runs = np.array(counts)
        except (ValueError, OverflowError):
            return None
        return runs.astype(np.int64) if runs.ndim == 1 and runs.dtype.kind in "iu" and len(runs) else None
    if not isinstance(counts, str | bytes) or not counts:
        return None
    try:
        data = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    digits = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    last = (digits & 32) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # more than 35 bits: no run of an image is so long
        return None
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    negative = (digits[ends] & 16) != 0
    runs[negative] -= np.int64(1) << (5 * (ends - starts + 1)[negative])
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _check_bbox(bbox: Any, extent: Box, width: int, height: int) -> list[Problem]:
    """Compares bbox [x, y, width, height], where it is given, with the segmentation's own inside the image."""
    if bbox is None:
        return []
    x0, y0, x1, y1 = _clip(extent, width, height)
    tolerance = 2.0 + BBOX_TOLERANCE * max(x1 - x0, y1 - y0)
    try:
        left, top, w, h = (float(value) for value in bbox)
    except (TypeError, ValueError):
        left = top = w = h = float("nan")
    stated = _clip((left, top, left + w, top + h), width, height)
    if all(abs(a - b) <= tolerance for a, b in zip(stated, (x0, y0, x1, y1), strict=True)):
        return []
    own = [round(value, 1) for value in (x0, y0, x1 - x0, y1 - y0)]
    return [("bbox-mismatch", f"bbox {bbox!r:.80} but the segmentation has {own}")]


def _clip(box: Box, width: int, height: int) -> Box:
    """The part inside the image; NaN stays NaN."""
    x0, y0, x1, y1 = (min(max(value, 0.0), limit) for value, limit in zip(box, (width, height) * 2, strict=True))
    return x0, y0, x1, y1


def _check_area(stated: Any, area: float) -> list[Problem]:
    """Compares area, where it is given, with the segmentation's own."""
    number = isinstance(stated, int | float)
    if stated is None or (number and abs(stated - area) <= 4.0 + AREA_TOLERANCE * area):
        return []
    return [("area-mismatch", f"area {stated!r:.40} but the segmentation has {area:.1f}")]
