"""Batches of a split. What a batch holds depends on (seed, epoch, batch) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trash_seg.config import AugmentationConfig
from trash_seg.data.augment import Draws, augment, draw
from trash_seg.data.workers import prepared
from trash_seg.errors import DataError

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
        yield from prepared(_Batches(self, epoch, start), num_workers=self.num_workers, errors=(DataError,))


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
