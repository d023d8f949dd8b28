"""Pictures for the doctor's page: defects outlined, and overlays of masks."""

import base64
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trash_seg.data.coco import ImageRecord, leaves_folder
from trash_seg.data.examine import Examination
from trash_seg.data.findings import Finding
from trash_seg.data.geometry import rle_counts
from trash_seg.data.image import ImageError, Pixels, read_image
from trash_seg.palette import palette

PICTURE_SIZE, MARGIN = 320, 0.12
"""Longer side in px; share of it that is shown around the image, where coordinates may lie."""
OUTLINE, BBOX = (255, 0, 170), (255, 200, 0)
NUM_OVERLAYS = 24
OPACITY = 0.55


def as_uri(picture: Pixels) -> str:
    """(H, W, 3) RGB as a JPEG data URI."""
    encoded, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def picture_of(finding: Finding, examination: Examination) -> str | None:
    """The image concerned, its annotation outlined and its bbox framed; two images side by side where two are."""
    names = [name for name in (finding.image, finding.other) if name is not None and not leaves_folder(name)]
    panels = []
    for name in names:
        try:
            image = read_image(examination.source.root / name)
        except ImageError:
            continue
        panels.append(_outlined(image, finding.region))
    if not panels:
        return None
    height = max(panel.shape[0] for panel in panels)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=128) for p in panels]
    return as_uri(np.concatenate(padded, axis=1))


def _outlined(image: Pixels, region: Any) -> Pixels:
    scale = PICTURE_SIZE / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    if not isinstance(region, dict):
        return np.asarray(canvas, np.uint8)
    segmentation, margin = region.get("segmentation"), round(MARGIN * PICTURE_SIZE)
    if isinstance(segmentation, dict):
        canvas = _tinted(np.asarray(canvas), segmentation)
    canvas = np.pad(canvas, ((margin, margin), (margin, margin), (0, 0)), constant_values=128)
    for part in segmentation if isinstance(segmentation, list) else []:
        points = _points(part)
        if len(points):
            cv2.polylines(canvas, [_pixels(points * scale + margin)], True, OUTLINE, 2, cv2.LINE_AA)
            for point in _pixels(points * scale + margin) if len(points) < 4 else []:
                cv2.circle(canvas, [int(v) for v in point], 4, OUTLINE, -1, cv2.LINE_AA)
    box = _points(region.get("bbox"))
    if len(box) == 2:
        corners = _pixels(np.stack([box[0], box[0] + box[1]]) * scale + margin)
        cv2.rectangle(canvas, [int(v) for v in corners[0]], [int(v) for v in corners[1]], BBOX, 1, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def _points(numbers: Any) -> npt.NDArray[np.float64]:
    """(N, 2) x, y of what can be drawn of a list [x0, y0, …]; none where it is no list of numbers."""
    try:
        values = np.array(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros((0, 2))
    if values.ndim != 1:
        return np.zeros((0, 2))
    points = values[: len(values) // 2 * 2].reshape(-1, 2)
    return np.asarray(points[np.isfinite(points).all(axis=1)], np.float64)


def _pixels(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Whole px, kept within what OpenCV draws."""
    return points.clip(-4000, 4000).round().astype(np.int32)


def _tinted(canvas: Pixels, rle: dict[str, Any]) -> Pixels:
    size: Any = rle.get("size")
    runs = rle_counts(rle.get("counts"))
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and 0 < s < 2**16 for s in size)
    if not whole or runs is None or (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        return canvas
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T.astype(np.uint8)
    shown = cv2.resize(inside, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
    canvas[shown] = (0.5 * canvas[shown] + 0.5 * np.array(OUTLINE)).astype(np.uint8)
    return canvas


def overlay(record: ImageRecord, examination: Examination) -> tuple[str, list[int]] | None:
    """An image under its mask's colours, and the classes it shows; None where it cannot be read."""
    reader = examination.reader
    try:
        image = read_image(reader.root / record.file_name, width=record.width, height=record.height)
        mask = reader.full_mask(record)
    except ImageError:
        return None
    scale = PICTURE_SIZE / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    small_mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    colors = np.array(palette(reader.num_classes), np.uint8)[small_mask]
    drawn = small_mask > 0
    small[drawn] = ((1 - OPACITY) * small[drawn] + OPACITY * colors[drawn]).astype(np.uint8)
    edge = cv2.morphologyEx(small_mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    small[edge] = np.maximum(colors[edge], 64)
    return as_uri(small), np.unique(mask[mask > 0]).tolist()


def choose_overlays(records: list[ImageRecord], *, number: int) -> list[ImageRecord]:
    """Images at even steps through the file, those with annotations first."""
    safe = [record for record in records if not leaves_folder(record.file_name)]
    drawn = [record for record in safe if record.annotations or record.mask_name] or safe
    steps = np.linspace(0, len(drawn) - 1, min(number, len(drawn))).round().astype(int)
    return [drawn[step] for step in steps]
