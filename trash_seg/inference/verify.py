"""An exported file against the run that it came from: the same labels on real images, and how fast each is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trash_seg.errors import UserError
from trash_seg.inference.exporting import Run, large_side
from trash_seg.inference.inputs import Item
from trash_seg.inference.stream import Failure, Reader

MIN_AGREEMENT = 0.999
BATCH_SIZES = (1, 8)
NUM_REPEATS = 5


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images."""

    num_images: int
    agreement: float
    """Share of pixels with the same label, at the size where it is least."""
    largest_difference: float
    """Of any logit."""


def read_images(items: Sequence[Item], *, size: int, num_images: int) -> Tensor:
    """The first images, (N, 3, size, size) uint8.

    Raises:
        UserError: One cannot be read.
    """
    reader = Reader([size], None, 0.0, keep_image=False)
    images = []
    for item in items[:num_images]:
        sample = reader.read(item)
        if isinstance(sample, Failure):
            raise UserError(sample.reason)
        images.append(sample.inputs[size][0])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def compare(ours: Run, exported: Run, images: Tensor, *, stride: int | None) -> Comparison:
    """Runs both one image at a time, and once as a batch of all; with a stride at other sizes too.

    These are twice the width, and a large square of copies side by side.
    """
    batches = [*(image[None] for image in images), images if len(images) > 1 else images.repeat(2, 1, 1, 1)]
    agreement, largest = _compare(ours, exported, batches)
    if stride is not None:
        side = large_side(stride)
        copies = -(-side // images.shape[-1])
        for other in (images[:1].repeat(1, 1, 1, 2), images[:1].repeat(1, 1, copies, copies)[..., :side, :side]):
            same, difference = _compare(ours, exported, [other])
            agreement, largest = min(agreement, same), max(largest, difference)
    return Comparison(len(images), agreement, largest)


def _compare(ours: Run, exported: Run, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Share of pixels with the same label, and the largest difference of a logit."""
    same, largest = 0, 0.0
    for batch in batches:
        first, second = ours(batch), exported(batch)
        same += int((first.argmax(1) == second.argmax(1)).sum())
        largest = max(largest, float((first - second).abs().max()))
    return same / sum(batch[:, 0].numel() for batch in batches), largest


def measure(runs: dict[str, Run], images: Tensor) -> dict[tuple[str, int], float]:
    """Median seconds a batch, by (name, batch size); the networks take turns."""
    seconds: dict[tuple[str, int], float] = {}
    for batch_size in BATCH_SIZES:
        batch = images[torch.arange(batch_size) % len(images)]
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(NUM_REPEATS + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run(batch)
                if repeat:  # the first warms up
                    taken[name].append(time.perf_counter() - started)
        seconds |= {(name, batch_size): float(np.median(values)) for name, values in taken.items()}
    return seconds


def show_speed(seconds: dict[tuple[str, int], float], console: Console, *, title: str) -> None:
    """Prints latency and throughput."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("", "batch", "ms a batch", "images/s"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for (name, batch_size), value in seconds.items():
        table.add_row(name, str(batch_size), f"{1000 * value:.1f}", f"{batch_size / value:.1f}")
    console.print(table)
