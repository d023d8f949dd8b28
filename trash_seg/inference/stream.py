"""Images → predictions, as a stream: threads read ahead, the network takes batches, nothing is kept."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trash_seg.data.image import ImageError, read_image
from trash_seg.data.samples import resize_image
from trash_seg.inference.ensemble import Ensemble
from trash_seg.inference.inputs import Item
from trash_seg.inference.windows import Mosaic, Window, place_windows, upsample_labels

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """An image that cannot be predicted."""

    item: Item
    reason: str
    """One line that names the file."""


@dataclass(frozen=True)
class Sample:
    """An image that has been read, at the sizes that the networks take."""

    item: Item
    image: Pixels | None
    """(H, W, 3) uint8 RGB, where an output needs it."""
    height: int
    width: int
    windows: list[Window]
    inputs: dict[int, Pixels]
    """Size S → (number of windows, S, S, 3) uint8."""


@dataclass(frozen=True)
class Prediction:
    """What the ensemble sees in one image."""

    item: Item
    image: Pixels | None
    height: int
    width: int
    labels: Pixels
    """(S, S) uint8 class index at the training size; (height, width) where several windows were put together."""
    probabilities: Floats | None
    """(C, …) float32 of the same size, where they were asked for."""

    @cached_property
    def full_size(self) -> tuple[Pixels, Floats]:
        """(height, width) uint8 class index and (height, width) float32, its probability; needs `probabilities`."""
        assert self.probabilities is not None
        if self.labels.shape == (self.height, self.width):
            return self.labels, self.probabilities.max(0)
        return upsample_labels(self.probabilities, self.height, self.width)


@dataclass(frozen=True)
class Reader:
    """Decodes an image, cuts it into windows and resizes them, with the trainer's own code."""

    sizes: Sequence[int]
    window: int | None
    overlap: float
    keep_image: bool

    def read(self, item: Item) -> Sample | Failure:
        """An image that cannot be read is a failure of its own, not of the others."""
        record = item.record
        size = {} if record is None else {"width": record.width, "height": record.height}
        try:
            image = read_image(item.path, **size)
        except ImageError as error:
            return Failure(item, " ".join(str(error).split()))
        height, width = image.shape[:2]
        windows = place_windows(height, width, size=self.window, overlap=self.overlap)
        inputs = {
            size: np.stack([resize_image(image[window.slices], size) for window in windows]) for size in self.sizes
        }
        return Sample(item, image if self.keep_image else None, height, width, windows, inputs)


def stream(
    items: Iterable[Item], ensemble: Ensemble, *, reader: Reader, batch_size: int, probabilities: bool,
    num_threads: int = 2, num_streams: int = 1,
) -> Iterator[Prediction | Failure]:  # fmt: skip
    """Predicts images in their order; a failure may come before the predictions of earlier images.

    Args:
        items: The images.
        ensemble: The networks.
        reader: Reads for them.
        batch_size: Windows a batch.
        probabilities: Whether outputs need them.
        num_threads: That read ahead, at most two batches of images a stream.
        num_streams: Batches that run side by side, each on its share of the CPU threads: faster than one after the
            other on all of them, and rounded differently in the last bits.
    """
    cv2.setNumThreads(1)  # the reading threads are enough
    queue: deque[tuple[_Assembly, int]] = deque()
    unfinished: deque[_Assembly] = deque()
    running: deque[_Batch] = deque()
    share = max(torch.get_num_threads() // num_streams, 1)
    with ThreadPoolExecutor(num_streams, initializer=torch.set_num_threads, initargs=(share,)) as pool:
        for sample in _read_ahead(items, reader, num_threads=num_threads, ahead=2 * batch_size * num_streams):
            if isinstance(sample, Failure):
                yield sample
                continue
            assembly = _Assembly(sample, num_classes=len(ensemble.classes))
            unfinished.append(assembly)
            queue.extend((assembly, index) for index in range(len(sample.windows)))
            while len(queue) >= batch_size:
                running.append(_start_batch(ensemble, queue, batch_size, probabilities, pool))
                if len(running) > num_streams:
                    yield from _finish_batch(running.popleft(), unfinished)
        while queue:
            running.append(_start_batch(ensemble, queue, batch_size, probabilities, pool))
        while running:
            yield from _finish_batch(running.popleft(), unfinished)


def _read_ahead(items: Iterable[Item], reader: Reader, *, num_threads: int, ahead: int) -> Iterator[Sample | Failure]:
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        futures: deque[Future[Sample | Failure]] = deque()
        try:
            futures.extend(pool.submit(reader.read, item) for item in islice(remaining, ahead))
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(reader.read, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)


class _Assembly:
    """An image whose windows are on their way through the network."""

    def __init__(self, sample: Sample, *, num_classes: int) -> None:
        self.sample, self.num_left = sample, len(sample.windows)
        mosaic = self.num_left > 1
        self.mosaic = Mosaic(sample.height, sample.width, num_classes=num_classes) if mosaic else None
        self.labels: Pixels | None = None
        self.probabilities: Floats | None = None

    def add(self, window: Window, labels: Pixels, probabilities: Floats | None) -> None:
        self.num_left -= 1
        if self.mosaic is None:
            self.labels, self.probabilities = labels, probabilities
            return
        assert probabilities is not None
        self.mosaic.add(window, probabilities)
        if self.num_left == 0:
            self.probabilities = self.mosaic.mean()
            self.labels = self.probabilities.argmax(0).astype(np.uint8)

    def finish(self) -> Prediction:
        sample = self.sample
        assert self.labels is not None
        return Prediction(sample.item, sample.image, sample.height, sample.width, self.labels, self.probabilities)


@dataclass(frozen=True)
class _Batch:
    windows: list[tuple[_Assembly, int]]
    result: Future[tuple[Tensor, Tensor | None]]


def _start_batch(
    ensemble: Ensemble, queue: deque[tuple[_Assembly, int]], batch_size: int, probabilities: bool,
    pool: ThreadPoolExecutor,
) -> _Batch:  # fmt: skip
    windows = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
    filled = windows + windows[-1:] * (batch_size - len(windows) if ensemble.whole_batches else 0)
    images = {size: _to_tensor([a.sample.inputs[size][index] for a, index in filled]) for size in ensemble.sizes}
    needed = probabilities or any(assembly.mosaic is not None for assembly, _ in windows)
    return _Batch(windows, pool.submit(ensemble.predict, images, probabilities=needed))


def _finish_batch(batch: _Batch, unfinished: deque[_Assembly]) -> Iterator[Prediction]:
    labels, seen = batch.result.result()
    for position, (assembly, index) in enumerate(batch.windows):
        planes = None if seen is None else seen[position].numpy()
        assembly.add(assembly.sample.windows[index], labels[position].numpy(), planes)
    while unfinished and unfinished[0].num_left == 0:
        yield unfinished.popleft().finish()


def _to_tensor(images: Sequence[Pixels]) -> Tensor:
    """(S, S, 3) each → (N, 3, S, S) in channels_last memory order, as the trainer's loader gives them."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
