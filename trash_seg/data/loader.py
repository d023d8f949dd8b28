"""Batches of a split. What a batch holds depends on (seed, epoch, batch) alone."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trash_seg.config import AugmentationConfig
from trash_seg.data.augment import Draws, augment, draw
from trash_seg.errors import DataError
from trash_seg.stop import STOP_SIGNALS

Pixels = npt.NDArray[np.uint8]
Batch = tuple[Tensor, ...]
"""What a loader hands to a step, which has the loader's `samples` make images and masks of it."""


class Rows(Protocol):
    """Samples by index: a (memory-mapped) array, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...


@dataclass(frozen=True)
class Split:
    """One part of a dataset, at the image size S of the run."""

    images: Rows
    """(N, S, S, 3) uint8 RGB."""
    masks: Rows
    """(N, S, S) uint8 class index."""
    names: list[str]
    """File names as in the annotation file."""


class Loader:
    """Deals a split out in batches.

    Args:
        split: The samples.
        batch_size: Images in a batch.
        seed: Of the order and the augmentation.
        augmentation: None leaves the samples as they are.
        shuffle: Draw a new order each epoch.
        drop_last: Leave out an incomplete last batch.
        num_workers: Processes that prepare batches; 0 prepares them here. No influence on what they hold.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.augmentation, self.shuffle, self.num_workers = augmentation, shuffle, num_workers
        num_images = len(split.names)
        self.num_batches = num_images // batch_size if drop_last else -(-num_images // batch_size)

    @property
    def forks(self) -> bool:
        """Whether an epoch begins with new processes."""
        return self.num_workers > 0

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(N,) indices into the split, in the order of an epoch."""
        indices = np.arange(len(self.split.names))
        return np.random.default_rng((self.seed, epoch)).permutation(indices) if self.shuffle else indices

    def draws(self, epoch: int) -> Draws | None:
        """The augmentation of each sample of the split in an epoch; None for none."""
        if self.augmentation is None:
            return None
        # A generator of its own: the order must not depend on how many numbers the augmentation takes.
        rng = np.random.default_rng((self.seed, epoch, 1))
        return draw(self.augmentation, num_samples=len(self.split.names), rng=rng)

    def samples(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images and masks of a batch: what it holds already."""
        return images, masks

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: Decides order and augmentation.
            start: Begin at this batch, as after a resume.

        Yields:
            Images (B, 3, S, S) uint8 in channels_last memory order, masks (B, S, S) uint8.

        Raises:
            DataError: Without the cache: a file cannot be used.
        """
        batches = _Batches(self, epoch, start)
        if self.num_workers == 0:
            yield from (batches[i] for i in range(len(batches)))
        else:
            # A generator of its own: by default it draws its seed from the global one, which dropout uses too.
            own = torch.Generator()
            method = "fork" if sys.platform == "linux" else None  # others would give each worker a copy of the samples
            workers = DataLoader(
                _Guarded(batches), batch_size=None, num_workers=self.num_workers, generator=own,
                multiprocessing_context=method, worker_init_fn=_leave_signals_to_the_run,
            )  # fmt: skip
            for batch in workers:
                if isinstance(batch, DataError):
                    raise batch
                yield batch


def _leave_signals_to_the_run(_worker: int) -> None:
    """A scheduler and a terminal signal all processes at once: a worker that died of it would keep the run from saving.

    Workers leave when the run tells them to, or is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Batches(Dataset[Batch]):
    """The rest of an epoch, batch by batch: what a worker process is given."""

    def __init__(self, loader: Loader, epoch: int, start: int) -> None:
        self.loader, self.start = loader, start
        self.order, self.draws = loader.order(epoch), loader.draws(epoch)

    def __len__(self) -> int:
        return max(self.loader.num_batches - self.start, 0)

    def __getitem__(self, position: int) -> Batch:
        first = (self.start + position) * self.loader.batch_size
        samples = [self._sample(int(i)) for i in self.order[first : first + self.loader.batch_size]]
        images = torch.from_numpy(np.stack([image for image, _ in samples]))
        masks = torch.from_numpy(np.stack([mask for _, mask in samples]))
        return images.permute(0, 3, 1, 2), masks

    def _sample(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (S, S, 3) and mask (S, S)."""
        image, mask = self.loader.split.images[index], self.loader.split.masks[index]
        return (image, mask) if self.draws is None else augment(image, mask, draws=self.draws, row=index)


class _Guarded(Dataset[Batch | DataError]):
    """In a worker: hands an error of the user's over as it is, where torch would make one long text of it."""

    def __init__(self, batches: _Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch | DataError:
        try:
            return self.batches[position]
        except DataError as error:
            return error
