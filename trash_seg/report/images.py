"""The validation images: confusion counts, a paired bootstrap over images, and pictures."""

import base64
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trash_seg.palette import palette
from trash_seg.report.board import Row
from trash_seg.report.collect import Run
from trash_seg.report.noise import Floats

NUM_DRAWS = 2000
THUMBNAIL = 256
READ_ERRORS = (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError)

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """What `confusion.npz` holds."""

    counts: Counts
    """(N, C, C) pixels: [image, truth, prediction]."""
    images: list[str]
    classes: list[str]


@dataclass(frozen=True)
class ImageNoise:
    """How much of a configuration's score hangs on the choice of validation images. Seeds are held fixed."""

    row: Row
    low: float
    """95 % interval of its mIoU over resampled images."""
    high: float
    difference_low: float
    """95 % interval of (leader - this), the same images drawn for both."""
    difference_high: float
    p_leader_better: float


@dataclass(frozen=True)
class Picture:
    """One validation image; the three pictures are data URIs."""

    name: str
    miou: float | None
    image: str
    truth: str
    prediction: str


def explain(error: Exception) -> str:
    """One of READ_ERRORS in words."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(error.filename).name}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def read_confusion(run: Run) -> Confusion:
    """The confusion counts of a run's best epoch.

    Raises:
        OSError, ValueError, KeyError, BadZipFile, EOFError: READ_ERRORS; they are missing or damaged.
    """
    assert run.directory is not None
    with run.directory.confusion_path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        counts, images, classes = stored["counts"], stored["images"].tolist(), stored["classes"].tolist()
    if counts.shape != (len(images), len(classes), len(classes)):
        raise ValueError(f"counts {counts.shape} do not fit {len(images)} images and {len(classes)} classes")
    return Confusion(counts.astype(np.int64), images, classes)


def overlaps(counts: Counts) -> tuple[Floats, Floats]:
    """Intersection and union (..., C) pixels of confusion counts (..., C, C)."""
    intersection = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - intersection
    return intersection, union


def mean_iou(intersection: Floats, union: Floats) -> Floats:
    """(...,) mean over the classes that occur in truth or prediction, from (..., C) pixels. NaN where none does."""
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(intersection), where=present)
    num = present.sum(axis=-1)
    total: Floats = iou.sum(axis=-1)
    mean: Floats = np.divide(total, num, out=np.full(num.shape, np.nan), where=num > 0)
    return mean


def bootstrap_images(rows: Sequence[Row], *, seed: int = 0) -> tuple[list[ImageNoise], list[str]]:
    """Paired bootstrap over validation images; the first row is the leader the others are compared with.

    Returns:
        One result for each row whose counts can be used, and a sentence for each that is left out.
    """
    results: list[ImageNoise] = []
    left_out: list[str] = []
    leader: Floats | None = None
    leader_images: list[str] = []
    draws = np.empty((0, 0))
    for row in rows:
        try:
            confusions = [read_confusion(run) for run in row.done]
            if leader is None:
                leader_images = confusions[0].images
            if any(c.images != leader_images for c in confusions):
                raise ValueError("other validation images than the leader's")
        except READ_ERRORS as error:
            left_out.append(f"{row.name} {row.config}: {explain(error)}")
            if leader is None:
                break
            continue
        num = len(leader_images)
        if leader is None:
            draws = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), NUM_DRAWS).astype(np.float64)
        parts = [overlaps(c.counts) for c in confusions]
        scores = np.mean([mean_iou(draws @ inter, draws @ union) for inter, union in parts], axis=0)
        leader = scores if leader is None else leader
        low, high = np.percentile(scores, [2.5, 97.5])
        less, more = np.percentile(leader - scores, [2.5, 97.5])
        share = float((leader > scores).mean() + (leader == scores).mean() / 2)
        results.append(ImageNoise(row, float(low), float(high), float(less), float(more), share))
    return results, left_out


def confusion_of(row: Row) -> tuple[Counts, list[str]]:
    """(C, C) pixels over all validation images and done seeds, and the classes.

    Raises:
        OSError, ValueError, KeyError, BadZipFile, EOFError: READ_ERRORS.
    """
    confusions = [read_confusion(run) for run in row.done]
    return np.sum([c.counts.sum(axis=0) for c in confusions], axis=0), confusions[0].classes


def pictures(run: Run) -> list[Picture]:
    """The validation images that the run kept, the worst first.

    Raises:
        OSError, ValueError, KeyError, BadZipFile, EOFError: READ_ERRORS.
    """
    assert run.directory is not None
    confusion = read_confusion(run)
    scores = mean_iou(*overlaps(confusion.counts))
    miou = {name: float(score) for name, score in zip(confusion.images, scores, strict=True) if np.isfinite(score)}
    with run.directory.samples_path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        names = stored["names"].tolist()
        kept = zip(names, stored["images"], stored["truth"], stored["prediction"], strict=True)
        colors = palette(len(confusion.classes))
        return [
            Picture(name, miou.get(name), _jpeg(image), _mask(truth, colors), _mask(prediction, colors))
            for name, image, truth, prediction in kept
        ]


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return _data_uri(image, "JPEG", quality=82)


def _mask(mask: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> str:
    image = Image.fromarray(mask, mode="P")
    image.putpalette([channel for color in colors for channel in color])
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST)
    return _data_uri(image, "PNG", optimize=True)


def _data_uri(image: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
