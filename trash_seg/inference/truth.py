"""Predictions against the truth: confusion counts, scores, and how they are shown."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from trash_seg.config import Config
from trash_seg.data.coco import ImageRecord
from trash_seg.data.samples import SampleReader, resize_mask
from trash_seg.engine.metrics import Scores, score
from trash_seg.engine.step import count_confusion
from trash_seg.inference.stream import Prediction
from trash_seg.rundir import write_atomically, write_text

Pixels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


class Truth:
    """Counts pixels by truth and prediction.

    At the training size, as validation does, so that the scores compare with a run's own; at the image's own size where
    the prediction was put together from windows.
    """

    needs_probabilities = False

    def __init__(self, records: Mapping[str, ImageRecord], *, root: Path, config: Config) -> None:
        self.records = records
        self.classes = list(config.data.classes)
        self.reader = SampleReader(root, 1, config.data.overlap, len(self.classes))
        self.names: list[str] = []
        self.counts: list[Counts] = []

    def mask(self, name: str, *, size: int) -> Pixels:
        """(size, size) uint8 class index, as the trainer draws it."""
        return resize_mask(self.reader.full_mask(self.records[name]), size)

    def prepare(self, prediction: Prediction) -> Counts | None:
        """(C, C) counts by [truth, prediction]; None for an image without truth."""
        record, labels = self.records.get(prediction.item.name), prediction.labels
        if record is None:
            return None
        full = self.reader.full_mask(record)
        truth = full if labels.shape == full.shape else resize_mask(full, labels.shape[0])
        return count(truth, labels, num_classes=len(self.classes))

    def write(self, prediction: Prediction, prepared: Counts | None) -> None:
        """Keeps the counts."""
        if prepared is not None:
            self.names.append(prediction.item.name)
            self.counts.append(prepared)

    def score(self, *, batch_size: int) -> Scores:
        """Scores of all images so far."""
        return score(np.stack(self.counts), classes=self.classes, batch_size=batch_size)

    def save_confusion(self, path: Path) -> None:
        """Writes `counts` (N, C, C) int64, `images` and `classes`, as in a run's directory."""
        arrays = {"counts": np.stack(self.counts), "images": np.array(self.names), "classes": np.array(self.classes)}
        write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))

    def save_scores(self, path: Path, scores: Scores) -> None:
        """Writes the three mIoUs, IoU by class and the summed confusion counts as JSON."""
        confusion = np.sum(self.counts, axis=0).tolist()
        content = {**asdict(scores), "num_images": len(self.names), "classes": self.classes, "confusion": confusion}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def count(truth: Pixels, labels: Pixels, *, num_classes: int) -> Counts:
    """Confusion counts of one image: (H, W) uint8 each → (C, C) int64 by [truth, prediction]."""
    pair = (torch.from_numpy(np.ascontiguousarray(plane)).long()[None] for plane in (truth, labels))
    counts: Counts = count_confusion(*pair, num_classes=num_classes)[0].numpy()
    return counts


def show_scores(scores: Scores, counts: Counts, console: Console) -> None:
    """Prints the three mIoUs, and a row a class: IoU, and where its true pixels went.

    Args:
        scores: Of all images.
        counts: (C, C), summed over images.
        console: Where to.
    """
    console.print(
        f"mIoU {scores.miou:.4f} (pooled)   {scores.miou_image:.4f} (mean over images)   "
        f"{scores.miou_batch:.4f} (mean over batches)"
    )
    table = Table(title="% of true pixels predicted as", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for heading in ("IoU", *(str(index) for index in range(len(counts)))):
        table.add_column(heading, justify="right")
    for index, (name, iou) in enumerate(scores.iou.items()):
        total = counts[index].sum()
        shares = [f"{100 * value / total:.0f}" if value else "" for value in counts[index]]
        table.add_row(f"{index} {name}", "" if iou is None else f"{iou:.4f}", *shares)
    console.print(table)
