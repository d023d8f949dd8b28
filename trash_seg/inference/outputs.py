"""What is written of each prediction. Nothing is gathered: memory does not grow with the number of images."""

import csv
import io
import json
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from trash_seg.inference.inputs import CocoIds
from trash_seg.inference.overlay import draw_overlay
from trash_seg.inference.stream import Prediction
from trash_seg.palette import palette
from trash_seg.rundir import replacing

Pixels = npt.NDArray[np.uint8]
SUBMISSION_SIZE = 256
"""Side of the competition's label map, px."""


class Output(Protocol):
    """One kind of output."""

    needs_probabilities: bool

    def prepare(self, prediction: Prediction) -> Any:
        """The work for one image, in any thread and any order."""

    def write(self, prediction: Prediction, prepared: Any) -> None:
        """Takes what was prepared, image by image in order, in one thread."""


class MaskFolder:
    """Index masks as PNG at the image's own size. The classes' colours are their palette, so that viewers show them."""

    needs_probabilities = True

    def __init__(self, folder: Path, *, num_classes: int) -> None:
        self.folder = folder
        self.palette = [value for color in palette(num_classes) for value in color]

    def prepare(self, prediction: Prediction) -> None:  # noqa: D102 - the protocol says it
        mask = Image.fromarray(prediction.full_size[0], mode="P")
        mask.putpalette(self.palette)
        with replacing(_file(self.folder, prediction, ".png"), durable=False) as file:
            mask.save(file, "PNG", compress_level=3)

    def write(self, prediction: Prediction, prepared: None) -> None:  # noqa: D102
        pass


class OverlayFolder:
    """The image under the mask's colours, with a legend, as JPEG."""

    needs_probabilities = True

    def __init__(self, folder: Path, *, classes: list[str]) -> None:
        self.folder, self.classes = folder, classes

    def prepare(self, prediction: Prediction) -> None:  # noqa: D102
        assert prediction.image is not None
        picture = draw_overlay(prediction.image, prediction.full_size[0], classes=self.classes)
        with replacing(_file(self.folder, prediction, ".jpg"), durable=False) as file:
            picture.save(file, "JPEG", quality=90)

    def write(self, prediction: Prediction, prepared: None) -> None:  # noqa: D102
        pass


class ProbabilityFolder:
    """Class probabilities (C, S, S) as `.npz`: float16, or uint8 of which 255 is 1; with the class names."""

    needs_probabilities = True

    def __init__(self, folder: Path, *, classes: list[str], dtype: str) -> None:
        self.folder, self.classes, self.dtype = folder, classes, dtype

    def prepare(self, prediction: Prediction) -> None:  # noqa: D102
        values = prediction.probabilities
        assert values is not None
        stored = np.rint(values * 255).astype(np.uint8) if self.dtype == "uint8" else values.astype(np.float16)
        with replacing(_file(self.folder, prediction, ".npz"), durable=False) as file:
            np.savez_compressed(file, allow_pickle=False, probabilities=stored, classes=np.array(self.classes))

    def write(self, prediction: Prediction, prepared: None) -> None:  # noqa: D102
        pass


class Submission:
    """The competition's CSV: the 256×256 label map in row-major order, argmax first, then resized to the nearest."""

    needs_probabilities = False

    def __init__(self, file: IO[bytes], *, num_classes: int) -> None:
        self.file = file
        self.digits = [str(index) for index in range(num_classes)]
        self._write_row(["image_id", "PredictionString"])

    def prepare(self, prediction: Prediction) -> str:  # noqa: D102
        size = (SUBMISSION_SIZE, SUBMISSION_SIZE)
        labels = np.asarray(cv2.resize(prediction.labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        return " ".join([self.digits[label] for label in labels.ravel().tolist()])

    def write(self, prediction: Prediction, prepared: str) -> None:  # noqa: D102
        self._write_row([prediction.item.name, prepared])

    def _write_row(self, row: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        self.file.write(line.getvalue().encode())


class CocoResults:
    """COCO results: one RLE for each class but the background; its score is the mean probability of its pixels."""

    needs_probabilities = True

    def __init__(self, file: IO[bytes], *, ids: CocoIds) -> None:
        self.file, self.ids = file, ids
        self.separator = b"[\n"

    def prepare(self, prediction: Prediction) -> list[bytes]:  # noqa: D102
        mask, probability = prediction.full_size
        entries = []
        for index in np.unique(mask[mask > 0]).tolist():
            if self.ids.category_ids[index] is None:
                continue
            region = mask == index
            rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
            entry = {
                "image_id": self.ids.image_ids[prediction.item.name],
                "category_id": self.ids.category_ids[index],
                "segmentation": {"size": list(region.shape), "counts": rle["counts"].decode()},
                "score": round(float(probability[region].mean()), 5),
            }
            entries.append(json.dumps(entry, ensure_ascii=False).encode())
        return entries

    def write(self, prediction: Prediction, prepared: list[bytes]) -> None:  # noqa: D102
        for entry in prepared:
            self.file.write(self.separator + entry)
            self.separator = b",\n"

    def close(self) -> None:
        """Ends the list."""
        self.file.write(b"\n]\n" if self.separator == b",\n" else b"[]\n")


def _file(folder: Path, prediction: Prediction, suffix: str) -> Path:
    path = folder / f"{prediction.item.output}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
