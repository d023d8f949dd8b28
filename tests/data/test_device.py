"""The operations of the device, run on a CPU, against those of the host."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.data.test_augment import LOG, SIZE, STRONG, drawn, sample
from trash_seg.data import augment as host
from trash_seg.data.device import DeviceLoader, blur, distort, num_bytes, runs_on_device, turn
from trash_seg.data.loader import Loader, Split

CPU = torch.device("cpu")
NUMBER = 96
GREY_LEVELS = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 6
"""OpenCV before version 5 rounds the coordinates of an interpolation to 1/32 px."""


def some_split(number: int = NUMBER) -> Split:
    images, masks = (np.stack(column) for column in zip(*(sample(seed) for seed in range(number)), strict=True))
    return Split(images, masks, [f"{i}.jpg" for i in range(number)])


SPLIT = some_split()


def tensors(batch: int = NUMBER) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.asarray(SPLIT.images[:batch])), torch.from_numpy(np.asarray(SPLIT.masks[:batch]))


def test_turns_equal_the_hosts() -> None:
    draws = drawn(LOG, NUMBER, 12)
    columns = {name: torch.from_numpy(getattr(draws, name)) for name in ("horizontal", "vertical", "turns")}
    images, masks = turn(*tensors(), **columns)
    ways = set()
    for row in range(NUMBER):
        way = {"horizontal": bool(draws.horizontal[row]), "vertical": bool(draws.vertical[row])}
        image, mask = host.turn(SPLIT.images[row], SPLIT.masks[row], **way, turns=int(draws.turns[row]))
        assert np.array_equal(images[row], image) and np.array_equal(masks[row], mask)
        ways.add((*way.values(), int(draws.turns[row])))
    assert len(ways) == 16


def test_blur_equals_the_hosts_within_rounding() -> None:
    draws = drawn(dataclasses.replace(LOG, blur_or_distort=1.0), NUMBER, 4)
    result = blur(tensors()[0].permute(0, 3, 1, 2).float(), torch.from_numpy(draws.kernels)).permute(0, 2, 3, 1)
    plain = host.Draws(*(np.zeros_like(column) for column in draws))
    for row in range(NUMBER):
        only_blur = plain._replace(blurred=draws.blurred, kernels=draws.kernels, warps=IDENTITY[0], colors=IDENTITY[1])
        expected = host.augment(SPLIT.images[row], SPLIT.masks[row], draws=only_blur, row=row)[0]
        difference = (result[row] - torch.from_numpy(expected)).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
    assert 20 < draws.blurred.sum() < 76


IDENTITY = np.tile(host.NO_WARP, (NUMBER, 1)), np.tile(host.NO_COLOR, (NUMBER, 1))


def test_distortion_equals_the_hosts_within_rounding() -> None:
    k = np.linspace(-host.MAX_DISTORTION, host.MAX_DISTORTION, NUMBER, dtype=np.float32)
    images, masks = tensors()
    field = torch.from_numpy(np.stack(host.distortion_field(SIZE, SIZE)))
    grey, labels = distort(images.permute(0, 3, 1, 2).float(), masks, k=torch.from_numpy(k), field=field)
    for row in range(NUMBER):
        image, mask = host.distort(SPLIT.images[row], SPLIT.masks[row], k=k[row])
        difference = (grey[row].permute(1, 2, 0) - torch.from_numpy(image)).abs()
        assert difference.max() <= GREY_LEVELS and (difference > 1).float().mean() < 0.1
        assert np.array_equal(labels[row], mask)


def loaders(augmentation: Any, **given: Any) -> tuple[Loader, DeviceLoader]:
    common = {"batch_size": 10, "seed": 21, "augmentation": augmentation}
    shuffled: dict[str, Any] = {"shuffle": True, "drop_last": True, **common}
    return Loader(SPLIT, **shuffled), DeviceLoader(SPLIT, device=CPU, **shuffled, **given)


@pytest.mark.parametrize("resident", [True, False])
def test_batches_equal_the_hosts_within_rounding(resident: bool) -> None:
    ours, theirs = loaders(LOG, resident=resident)
    for start in (0, 4):
        pairs = list(zip(theirs.epoch(3, start=start), ours.epoch(3, start=start), strict=True))
        assert len(pairs) == 9 - start
        for batch, (images, masks) in pairs:
            got, got_masks = theirs.samples(*batch)
            assert (got.dtype, got_masks.dtype) == (torch.float32, torch.uint8)
            assert got.shape == images.shape
            assert (got - images).abs().max() <= GREY_LEVELS
            assert torch.equal(got_masks, masks)


def test_a_split_beyond_the_devices_memory_gives_the_same_batches() -> None:
    there, not_there = (loaders(LOG, resident=resident)[1] for resident in (True, False))
    for one, other in zip(there.epoch(1), not_there.epoch(1), strict=True):
        for a, b in zip(there.samples(*one), not_there.samples(*other), strict=True):
            assert torch.equal(a, b)


def test_without_augmentation_samples_are_what_they_were() -> None:
    loader = DeviceLoader(SPLIT, batch_size=7, device=CPU)
    images, masks = zip(*(loader.samples(*batch) for batch in loader.epoch(0)), strict=True)
    assert torch.equal(torch.cat(images).permute(0, 2, 3, 1), tensors()[0])
    assert torch.equal(torch.cat(masks), tensors()[1])


def test_what_runs_on_the_device() -> None:
    assert runs_on_device(LOG)
    assert not runs_on_device(STRONG)
    assert num_bytes(SPLIT, SPLIT) == 2 * NUMBER * SIZE * SIZE * 4
