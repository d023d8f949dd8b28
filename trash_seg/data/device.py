"""Batches made on the device, where a split lies as uint8: the host hands over indices and parameters, no pixels.

The parameters are drawn by `augment.draw` as for the loader on the host, and the operations are the same; rounding
differs by at most one grey level.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trash_seg.config import AugmentationConfig
from trash_seg.data.augment import MAX_BLUR, distortion_field
from trash_seg.data.loader import Batch, Loader, Rows, Split

CHUNK = 256
"""Samples that are copied to the device at once."""


def runs_on_device(augmentation: AugmentationConfig) -> bool:
    """Whether every operation that the config asks for exists here."""
    return augmentation.affine == 0 and augmentation.color_jitter == 0


class DeviceLoader(Loader):
    """Deals a split out as `Loader` does: the same order, the same augmentation.

    A batch is (indices (B,) int64), or (images, masks) as the host has them where the split is not resident, followed
    by the parameters of its samples. `samples` turns it into images and masks by operations on the device alone, so
    that it can be part of a captured step.
    """

    def __init__(
        self, split: Split, *, batch_size: int, device: torch.device, seed: int = 0,
        augmentation: AugmentationConfig | None = None, shuffle: bool = False, drop_last: bool = False,
        num_workers: int = 0, resident: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            split, batch_size=batch_size, seed=seed, augmentation=augmentation, shuffle=shuffle, drop_last=drop_last,
            num_workers=num_workers,
        )  # fmt: skip
        self.device, self.resident = device, resident
        if resident:
            self.images, self.masks = (_copy(rows, device) for rows in (split.images, split.masks))
        else:
            self._host = Loader(
                split, batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers
            )
        if augmentation is not None:
            size = split.masks[0].shape[0]
            self._field = torch.from_numpy(np.stack(distortion_field(size, size))).to(device)

    @property
    def forks(self) -> bool:  # noqa: D102 - see Loader
        return not self.resident and self._host.forks

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, for `samples`. See `Loader.epoch`."""
        order = torch.from_numpy(self.order(epoch))
        parameters: list[Tensor] = []
        if (draws := self.draws(epoch)) is not None:
            columns = (draws.horizontal, draws.vertical, draws.turns, draws.kernels, draws.distortion)
            parameters = [torch.from_numpy(column)[order].to(self.device) for column in columns]
        rows = order.to(self.device)
        slices = [
            slice(i * self.batch_size, min((i + 1) * self.batch_size, len(order)))
            for i in range(start, self.num_batches)
        ]
        raw = ((rows[part],) for part in slices) if self.resident else self._host.epoch(epoch, start=start)
        for samples, part in zip(raw, slices, strict=True):
            yield (*samples, *(column[part] for column in parameters))

    def samples(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) uint8, or float32 whole grey levels where they are augmented; masks (B, S, S) uint8."""
        if self.resident:
            rows, *parameters = batch
            images, masks = self.images[rows], self.masks[rows]
        else:
            images, masks, *parameters = batch
            images = images.permute(0, 2, 3, 1)
        if self.augmentation is None:
            return images.permute(0, 3, 1, 2), masks
        horizontal, vertical, turns, kernels, distortion = parameters
        images, masks = turn(images, masks, horizontal=horizontal, vertical=vertical, turns=turns)
        grey = images.permute(0, 3, 1, 2).float()
        if self.augmentation.blur_or_distort == 0:
            return grey, masks
        return distort(blur(grey, kernels), masks, k=distortion, field=self._field)


def _copy(rows: Rows, device: torch.device) -> Tensor:
    """All samples of a split on the device, (N, ...) uint8."""
    chunks = (range(first, min(first + CHUNK, len(rows))) for first in range(0, len(rows), CHUNK))
    return torch.cat([torch.from_numpy(np.stack([rows[i] for i in chunk])).to(device) for chunk in chunks])


def num_bytes(*splits: Split) -> int:
    """Of the images and masks of these splits."""
    return sum((split.images[0].nbytes + split.masks[0].nbytes) * len(split.names) for split in splits)


def turn(
    images: Tensor, masks: Tensor, *, horizontal: Tensor, vertical: Tensor, turns: Tensor
) -> tuple[Tensor, Tensor]:
    """`augment.turn`, each sample in its own way.

    Args:
        images: (B, S, S, 3) uint8.
        masks: (B, S, S) uint8.
        horizontal: (B,) bool.
        vertical: (B,) bool.
        turns: (B,) int64, 0 to 3.
    """
    size = masks.shape[1]
    y, x = torch.arange(size, device=masks.device).view(-1, 1), torch.arange(size, device=masks.device)
    horizontal, vertical, turns = (column.view(-1, 1, 1) for column in (horizontal, vertical, turns))
    transposed = turns % 2 == 1
    row, column = torch.where(transposed, x, y), torch.where(transposed, y, x)
    row = torch.where(vertical ^ (turns >= 2), size - 1 - row, row)
    column = torch.where(horizontal ^ ((turns == 1) | (turns == 2)), size - 1 - column, column)
    source = (row * size + column).flatten(1)
    turned = images.flatten(1, 2).gather(1, source.unsqueeze(2).expand(-1, -1, 3))
    return turned.view_as(images), masks.flatten(1).gather(1, source).view_as(masks)


def blur(grey: Tensor, kernels: Tensor) -> Tensor:
    """`cv2.filter2D`, each sample with its own kernel.

    Args:
        grey: (B, 3, S, S) float32.
        kernels: (B, 7, 7) float32.
    """
    channels = grey.flatten(0, 1).unsqueeze(0)  # as many groups: a kernel for each channel
    weights = kernels.repeat_interleave(grey.shape[1], 0).unsqueeze(1)
    padded = F.pad(channels, [MAX_BLUR // 2] * 4, mode="reflect")
    return F.conv2d(padded, weights, groups=len(weights)).view(grey.shape).round()


def distort(grey: Tensor, masks: Tensor, *, k: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """`augment.distort`, each sample with its own k.

    Args:
        grey: (B, 3, S, S) float32.
        masks: (B, S, S) uint8.
        k: (B,) float32; 0 leaves a sample as it is.
        field: (2, 2, S, S) float32, `augment.distortion_field`.
    """
    size, (base, slope) = masks.shape[1], field
    pixels = torch.arange(size, device=masks.device, dtype=base.dtype)
    here = torch.stack([pixels.expand(size, size), pixels.unsqueeze(1).expand(size, size)])
    k = k.view(-1, 1, 1, 1)
    # For k → 0 OpenCV's model does not end at the pixel itself, but half a pixel beside it.
    position = torch.where(k == 0, here, base + k * slope)  # (B, 2, S, S) px, x before y
    half = (size - 1) / 2

    def sample(values: Tensor, at: Tensor, mode: str) -> Tensor:
        grid = (at / half - 1).permute(0, 2, 3, 1)
        return F.grid_sample(values, grid, mode=mode, padding_mode="reflection", align_corners=True)

    labels = sample(masks.unsqueeze(1).float(), position.round(), "nearest").squeeze(1)
    return sample(grey, position, "bilinear").round(), labels.to(masks.dtype)
