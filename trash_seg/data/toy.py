"""The built-in dataset: drawn shapes, one colour and texture a class, in the competition's layout."""

import json
import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from trash_seg.data.raster import decode
from trash_seg.palette import palette

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when the pictures change; old versions stay where they are."""
NUM_IMAGES = {"train": 96, "val": 24, "test": 12}
SIZES = ((128, 128), (160, 120), (120, 160))
"""(width, height) px."""
Pixels = npt.NDArray[np.uint8]


def make_toy(cache_dir: Path, *, classes: list[str]) -> Path:
    """Draws the dataset unless it is there; the same bytes each time.

    Args:
        cache_dir: The dataset lies in a folder under it.
        classes: Names by index; 0 is the background. Every other gets a colour and a texture of its own.

    Returns:
        The folder with train.json, val.json, test.json and images/.

    Raises:
        OSError: It cannot be written; nothing is left under the final name.
    """
    root = cache_dir / f"toy-v{VERSION}-{zlib.crc32(json.dumps(classes).encode()):08x}"
    if root.exists():
        return root
    log.info("drawing the toy dataset into %s", root)
    cache_dir.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=cache_dir, prefix=f".{root.name}."))
    try:
        (aside / "images").mkdir()
        for number, (part, num_images) in enumerate(NUM_IMAGES.items()):
            _write_split(aside, part, num_images, classes, np.random.default_rng((VERSION, number)))
        aside.chmod(0o755)
        try:
            os.rename(aside, root)
        except OSError:
            if not root.exists():  # else another process was first
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root


def _write_split(root: Path, part: str, num_images: int, classes: list[str], rng: np.random.Generator) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        width, height = SIZES[index % len(SIZES)]
        name = f"images/{part}_{index:03}.jpg"
        # Classes take turns, so that each split has all of them; the first image of each split shows none.
        first = 3 * index
        shown = [] if index == 0 else sorted(1 + (first + i) % (len(classes) - 1) for i in range(3))
        picture, regions = _draw(width, height, shown, classes, rng)
        encoded, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert encoded
        (root / name).write_bytes(jpeg.tobytes())
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        if part != "test":
            for class_index, segmentation, area, bbox in regions:
                annotations.append(
                    {
                        "id": len(annotations), "image_id": index, "category_id": class_index - 1,
                        "segmentation": segmentation, "area": area, "bbox": bbox, "iscrowd": 0,
                    }
                )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(classes[1:])]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{part}.json").write_text(json.dumps(content))


def _draw(
    width: int, height: int, shown: list[int], classes: list[str], rng: np.random.Generator
) -> tuple[Pixels, list[tuple[int, Any, float, list[float]]]]:
    """A picture with one shape of each class in `shown`, higher classes on top, and the regions."""
    slope = np.linspace(0, 1, width) * rng.uniform(-40, 40) + np.linspace(0, 1, height)[:, None] * rng.uniform(-40, 40)
    grey = rng.uniform(90, 150) + slope
    canvas = np.repeat(grey[..., None], 3, axis=2) + rng.normal(0, 8, (height, width, 3))
    regions = []
    for class_index in shown:
        points = _outline((width, height), rng)
        rle = coco_mask.merge(coco_mask.frPyObjects([points], height, width))
        drawn = decode(rle)
        canvas[drawn] = _texture(class_index, classes, width, height, rng)[drawn]
        area, bbox = float(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
        regions.append((class_index, _segmentation(points, rle, drawn, class_index), area, bbox))
    return canvas.clip(0, 255).astype(np.uint8), regions


def _outline(size: tuple[int, int], rng: np.random.Generator) -> list[float]:
    """A polygon [x0, y0, …] inside the image: from a triangle to nearly a circle."""
    center = rng.uniform(0.25, 0.75, 2) * size
    radius = rng.uniform(0.2, 0.33) * min(size)
    num_points = int(rng.choice([3, 4, 5, 6, 16]))
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    stretch = radius * rng.uniform(0.8, 1.25, 2)
    points = center + np.stack([np.cos(angles), np.sin(angles)], axis=1) * stretch
    points = points.clip(0, size)
    return [round(float(value), 2) for value in points.ravel()]


def _texture(class_index: int, classes: list[str], width: int, height: int, rng: np.random.Generator) -> Any:
    """(height, width, 3): the class's colour, plain, striped across, down or aslant, with noise."""
    color = np.array(palette(len(classes))[class_index], float)
    y, x = np.mgrid[:height, :width]
    phase = (x * 0, x, y, x + y)[class_index % 4]
    stripes = 1 - 0.25 * ((phase // 6) % 2)
    light = rng.uniform(0.85, 1.1)
    return color * stripes[..., None] * light + rng.normal(0, 8, (height, width, 3))


def _segmentation(points: list[float], rle: Any, drawn: npt.NDArray[np.bool_], class_index: int) -> Any:
    """Polygons mostly; some regions as compressed, some as uncompressed RLE, as real files mix them."""
    if class_index % 5 == 3:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    if class_index % 5 == 4:
        flat = drawn.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *ends, flat.size]).tolist()
        return {"size": rle["size"], "counts": counts if not flat[0] else [0, *counts]}
    return [points]
