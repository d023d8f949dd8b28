"""Which of several runs make the best ensemble: greedy forward selection, and whether each addition is more than noise.

Rich Caruana et al., "Ensemble selection from libraries of models", ICML 2004, without replacement.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trash_seg.engine.metrics import mean_iou
from trash_seg.engine.step import count_confusion
from trash_seg.errors import UserError
from trash_seg.inference.ensemble import Ensemble, resize_probabilities
from trash_seg.inference.inputs import Item
from trash_seg.inference.stream import Failure, Reader, stream
from trash_seg.inference.truth import Truth

NUM_RESAMPLES = 2000
Counts = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Addition:
    """One step of the selection."""

    member: int
    """Index of the member that was added."""
    miou: float
    """Pooled, of the ensemble with it."""
    gain: float
    """Over the ensemble without it; over nothing for the first."""
    interval: tuple[float, float] | None
    """95 % of the gain, by a paired bootstrap over images; None for the first."""

    @property
    def is_noise(self) -> bool:
        """The interval does not lie above 0."""
        return self.interval is not None and self.interval[0] <= 0


def select_members(
    ensemble: Ensemble, items: Sequence[Item], truth: Truth, *, batch_size: int, console: Console, num_threads: int
) -> list[int]:
    """Chooses members of an ensemble by their pooled mIoU on labelled images, and shows what each adds.

    Probabilities are kept as float16 in a temporary folder while it works: 2 · C · S² bytes for each image and member.

    Args:
        ensemble: The candidates.
        items: Images.
        truth: Their masks.
        batch_size: Images a batch.
        console: Shows the table.
        num_threads: That read ahead.

    Returns:
        Indices of the members in the best subset that the greedy way finds.

    Raises:
        UserError: An image cannot be read, or the temporary folder has no space.
    """
    size, num_classes = ensemble.image_size, len(ensemble.classes)
    masks = np.stack([truth.mask(item.name, size=size) for item in items])
    shape = (len(items), num_classes, size, size)
    folder = Path(tempfile.mkdtemp(prefix="trash_seg-select-"))
    try:
        needed, free = 2 * int(np.prod(shape)) * len(ensemble.members), shutil.disk_usage(folder).free
        if needed > free:
            text = f"{folder.parent}: --select needs {needed / 2**30:.1f} GiB there, {free / 2**30:.1f} are free"
            raise UserError(f"{text}; TMPDIR names another folder")
        stored: list[Rows] = []
        for number, member in enumerate(ensemble.members):
            console.print(f"{member.run.name}: predicting {len(items)} validation images", markup=False, soft_wrap=True)
            rows = np.lib.format.open_memmap(folder / f"{number}.npy", mode="w+", dtype=np.float16, shape=shape)
            _store(Ensemble([member]), items, rows, batch_size=batch_size, num_threads=num_threads)
            stored.append(rows)
        additions = add_greedily(stored, masks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    chosen = best_prefix(additions)
    _show(additions, chosen, [member.run.name for member in ensemble.members], console)
    return sorted(addition.member for addition in additions[:chosen])


def add_greedily(
    stored: Sequence[Rows], masks: npt.NDArray[np.uint8], *, num_resamples: int = NUM_RESAMPLES
) -> list[Addition]:
    """Adds, one after the other, the member that gives the highest pooled mIoU, until all are in.

    Args:
        stored: Class probabilities (N, C, S, S) of each member.
        masks: (N, S, S) class index.
        num_resamples: Of the bootstrap.
    """
    left = list(range(len(stored)))
    additions: list[Addition] = []
    before: Counts | None = None
    while left:
        taken = [addition.member for addition in additions]
        counts = _count_candidates(stored, taken, left, masks)
        member = max(left, key=lambda candidate: (_pooled(counts[candidate]), -candidate))
        after = counts[member]
        gain = _pooled(after) - (0.0 if before is None else _pooled(before))
        interval = None if before is None else bootstrap_gain(before, after, num_resamples=num_resamples)
        additions.append(Addition(member, _pooled(after), gain, interval))
        left.remove(member)
        before = after
    return additions


def best_prefix(additions: Sequence[Addition]) -> int:
    """How many of the additions to keep: those up to the highest mIoU, the fewest where several are equal."""
    return max(range(len(additions)), key=lambda i: (additions[i].miou, -i)) + 1


def bootstrap_gain(before: Counts, after: Counts, *, num_resamples: int = NUM_RESAMPLES) -> tuple[float, float]:
    """95 % interval of the gain in pooled mIoU, by resampling images with both predictions of each.

    Args:
        before: (N, C, C) confusion counts of each image.
        after: Likewise.
        num_resamples: Drawn from a fixed seed.
    """
    num_images, num_classes = before.shape[:2]
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)
    first, second = (
        mean_iou((drawn @ counts.reshape(num_images, -1)).reshape(num_resamples, num_classes, num_classes))
        for counts in (before, after)
    )
    low, high = np.quantile(second - first, [0.025, 0.975])
    return float(low), float(high)


def _count_candidates(
    stored: Sequence[Rows], taken: Sequence[int], left: Sequence[int], masks: npt.NDArray[np.uint8]
) -> dict[int, Counts]:
    """Confusion counts (N, C, C) of the ensemble with each candidate."""
    counts: dict[int, list[Counts]] = {candidate: [] for candidate in left}
    for index, mask in enumerate(masks):
        truth = torch.from_numpy(mask)[None].long()
        base = sum((_row(stored[member], index) for member in taken), start=torch.zeros(()))
        for candidate in left:
            labels = (base + _row(stored[candidate], index)).argmax(0)[None]
            counted = count_confusion(truth, labels, num_classes=stored[0].shape[1])
            counts[candidate].append(counted[0].numpy())
    return {candidate: np.stack(rows) for candidate, rows in counts.items()}


def _row(rows: Rows, index: int) -> Tensor:
    return torch.from_numpy(rows[index].astype(np.float32))


def _pooled(counts: Counts) -> float:
    return float(mean_iou(counts.sum(0)))


def _store(ensemble: Ensemble, items: Sequence[Item], rows: Rows, *, batch_size: int, num_threads: int) -> None:
    """Fills rows with the probabilities of one member, enlarged to the size of the whole ensemble."""
    reader = Reader(ensemble.sizes, None, 0.0, keep_image=False)
    predictions = stream(
        items, ensemble, reader=reader, batch_size=batch_size, probabilities=True, num_threads=num_threads
    )
    for index, prediction in enumerate(predictions):
        if isinstance(prediction, Failure):
            raise UserError(f"--select: {prediction.reason}")
        assert prediction.probabilities is not None
        enlarged = resize_probabilities(torch.from_numpy(prediction.probabilities)[None], rows.shape[-1])
        rows[index] = enlarged[0].numpy()


def _show(additions: Sequence[Addition], chosen: int, names: Sequence[str], console: Console) -> None:
    table = Table(title="greedy selection by pooled mIoU", box=box.SIMPLE_HEAD)
    for heading in ("", "run", "mIoU", "gain", "95 % interval", ""):
        table.add_column(heading, no_wrap=heading == "run")
    for number, addition in enumerate(additions, start=1):
        interval = "" if addition.interval is None else "{:+.4f} to {:+.4f}".format(*addition.interval)
        gain = "" if addition.interval is None else f"{addition.gain:+.4f}"
        remark = [] if number <= chosen else ["left out"]
        remark += ["no more than noise"] if addition.is_noise else []
        name = names[addition.member]
        table.add_row(str(number), name, f"{addition.miou:.4f}", gain, interval, ", ".join(remark))
    console.print(table)
    console.print(
        f"{chosen} of {len(additions)} runs are kept. Chosen on these images, their mIoU on them is too good."
    )
