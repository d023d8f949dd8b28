import os
import signal
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.broken import clean
from trash_seg.compose import compose_config
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.data.image import ImageError
from trash_seg.data.loader import Loader

CONFIG = compose_config(["training.image_size=32"])


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return open_dataset(CONFIG.data, image_size=32, runtime=CONFIG.runtime)


@pytest.fixture(scope="module")
def uncached() -> Dataset:
    runtime = compose_config(["runtime.cache=false"]).runtime
    return open_dataset(CONFIG.data, image_size=32, runtime=runtime)


def training(dataset: Dataset, *, seed: int = 21, num_workers: int = 0) -> Loader:
    return Loader(
        dataset.train, batch_size=9, seed=seed, augmentation=CONFIG.augmentation, shuffle=True, drop_last=True,
        num_workers=num_workers,
    )  # fmt: skip


def batches(loader: Loader, epoch: int, *, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in loader.epoch(epoch, start=start)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, num_workers: int) -> None:
    train, val = clean(tmp_path)
    train.image("images/cut.png")
    (tmp_path / "images" / "cut.png").write_bytes((tmp_path / "images" / "cut.png").read_bytes()[:-40])
    for coco in (train, val):
        coco.write()
    given = ["data=trash", f"data.root={tmp_path}", "runtime.cache=false"]
    config = compose_config(given)
    broken = open_dataset(config.data, image_size=32, runtime=config.runtime)
    with pytest.raises(ImageError) as caught:
        list(Loader(broken.train, batch_size=3, num_workers=num_workers).epoch(0))
    assert (caught.value.code, str(caught.value).count("\n")) == ("broken-image", 0)
    assert str(caught.value).startswith(f"{tmp_path / 'images' / 'cut.png'}: does not decode")


def test_shapes_types_and_memory_order(dataset: Dataset) -> None:
    images, masks = next(training(dataset).epoch(0))
    assert (images.shape, images.dtype) == ((9, 3, 32, 32), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (masks.shape, masks.dtype) == ((9, 32, 32), torch.uint8)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(dataset: Dataset, num_workers: int) -> None:
    assert batches(training(dataset, num_workers=num_workers), 2) == batches(training(dataset), 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR2])
def test_workers_leave_signals_to_the_run(dataset: Dataset, number: signal.Signals) -> None:
    """In mid-epoch, as when one goes to the whole process group; at its end they leave all the same."""
    epoch = training(dataset, num_workers=1).epoch(2)
    next(epoch)
    (worker,) = active_children()
    assert worker.pid is not None
    os.kill(worker.pid, number)
    assert len(list(epoch)) == training(dataset).num_batches - 1
    worker.join()
    assert worker.exitcode == 0


def test_a_resume_changes_nothing(dataset: Dataset) -> None:
    assert batches(training(dataset), 3, start=4) == batches(training(dataset), 3)[4:]
    assert batches(training(dataset, num_workers=2), 3, start=4) == batches(training(dataset), 3)[4:]
    assert batches(training(dataset), 3, start=10) == []


def test_the_cache_changes_nothing(dataset: Dataset, uncached: Dataset) -> None:
    assert batches(training(uncached), 1) == batches(training(dataset), 1)


def test_epochs_and_seeds_differ(dataset: Dataset) -> None:
    first = batches(training(dataset), 0)
    assert first != batches(training(dataset), 1)
    assert first != batches(training(dataset, seed=22), 0)


def test_a_sample_is_augmented_anew_each_epoch_and_by_nothing_else(dataset: Dataset) -> None:
    def sample(loader: Loader, epoch: int, index: int = 7) -> bytes:
        images = torch.cat([images for images, _ in loader.epoch(epoch)])
        place = loader.order(epoch).tolist().index(index)
        return bytes(images[place].numpy().tobytes())

    everything = {"batch_size": 1, "seed": 21, "augmentation": CONFIG.augmentation, "shuffle": True}
    loader, same = Loader(dataset.train, **everything), Loader(dataset.train, **everything)
    versions = {sample(loader, epoch) for epoch in range(6)}
    assert len(versions) == 6
    assert versions == {sample(same, epoch) for epoch in reversed(range(6))}
    assert sample(loader, 0) != sample(Loader(dataset.train, **{**everything, "seed": 22}), 0)


def test_an_epoch_shows_each_image_once(dataset: Dataset) -> None:
    order = training(dataset).order(5)
    assert sorted(order.tolist()) == list(range(len(dataset.train.names)))
    assert training(dataset).num_batches == len(dataset.train.names) // 9


def test_validation_keeps_order_and_the_last_batch(dataset: Dataset) -> None:
    loader = Loader(dataset.val, batch_size=9)
    images = torch.cat([images for images, _ in loader.epoch(0)])
    expected = np.stack([dataset.val.images[i] for i in range(len(dataset.val.names))])
    assert loader.num_batches == 3
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
