"""What each part of a job brings: epochs of training and validation, from the log's way to ours, part by part.

That freed memory is kept on a CPU (`trash_seg.engine.allocator`) holds for a whole process, so all lines have it.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import peer
from benchmarks.machine import job_settings, spread
from benchmarks.step import build_step
from trash_seg.compose import compose_config
from trash_seg.config import Config
from trash_seg.data.dataset import open_dataset
from trash_seg.data.loader import Split
from trash_seg.engine.allocator import keep_freed_memory
from trash_seg.engine.precision import has_bf16
from trash_seg.engine.step import choose_device

Epoch = Callable[[int], object]


class CachedDataset(Dataset[Any]):
    """The log's samples, but decoded and drawn once."""

    def __init__(self, split: Split, transform: A.Compose) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = self.transform(
            image=np.asarray(self.split.images[index]), mask=self.split.masks[index].astype(np.float32)
        )
        return sample["image"], sample["mask"].long()


def ablate(pair: str, root: Path, *, size: int, rounds: int) -> dict[str, list[float]]:
    """Prints and returns images/s of training and validating an epoch; parts add up from line to line."""
    common = [*job_settings(root, pair, size=size), "runtime.step=eager", "training.channels_last=false"]
    config, device = compose_config(common), choose_device("auto")
    dataset = open_dataset(config.data, image_size=size, runtime=config.runtime)
    kinds = {"train": "log", "val": "none"}
    log = [peer.LogDataset(root, part, peer.log_transform(size, kind)) for part, kind in kinds.items()]
    cached = [
        CachedDataset(split, peer.log_transform(size, kind, resize=False))
        for split, kind in ((dataset.train, "log"), (dataset.val, "none"))
    ]
    steps: dict[str, Epoch] = {
        "the log's way": _their_epoch(pair, *log, device=device),
        "+ cache": _their_epoch(pair, *cached, device=device),
        "+ uint8, normalised on the device": _our_epoch(config, dataset, device, count_on_host=True),
        "+ metric on the device": _our_epoch(config, dataset, device),
        "+ channels_last": _our_epoch(with_(common, "training.channels_last=true"), dataset, device),
    }
    if device.type == "cpu":
        keep_freed_memory()
    fast = ["training.channels_last=true"]
    steps["+ fused network"] = _our_epoch(with_(common, *fast), dataset, device, fused=True)
    if device.type == "cuda" or has_bf16():
        fast.append("training.precision=bf16")
        steps["+ bf16"] = _our_epoch(with_(common, *fast), dataset, device, fused=True)
    if device.type == "cuda":
        fast.append("runtime.step=auto")
        steps["+ captured graph"] = _our_epoch(with_(common, *fast), dataset, device, fused=True)
    num_images = len(dataset.train.names) // 8 * 8 + len(dataset.val.names)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number, (name, epoch) in itertools.product(range(rounds + 1), steps.items()):
        started = time.perf_counter()
        epoch(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:  # the first warms up
            rates[name].append(num_images / (time.perf_counter() - started))
    print(f"\nablation, {pair}: images/s of training and validating, each line with all above it")
    before = None
    for name, values in rates.items():
        median = statistics.median(values)
        gain = "" if before is None else f"  × {median / before:.2f}"
        print(f"  {name:34}{spread(values):>24}{gain}", flush=True)
        before = median
    return rates


def with_(common: list[str], *overrides: str) -> Config:
    """The common settings with others in place of theirs."""
    changed = {override.partition("=")[0] for override in overrides}
    return compose_config([*(o for o in common if o.partition("=")[0] not in changed), *overrides])


def _their_epoch(pair: str, train: Dataset[Any], val: Dataset[Any], *, device: torch.device) -> Epoch:
    num_workers = 4 if device.type == "cuda" else 0
    model, optimizer = peer.build(pair, device)
    batches = DataLoader(train, batch_size=8, shuffle=True, drop_last=True, num_workers=num_workers)
    val_batches = DataLoader(val, batch_size=8, num_workers=num_workers)

    def epoch(_number: int) -> None:
        peer.train_epoch(model, batches, optimizer, device)
        peer.validate(model, val_batches, device)

    return epoch


def _our_epoch(
    config: Config, dataset: Any, device: torch.device, *, count_on_host: bool = False, fused: bool = False
) -> Epoch:
    step, train, val = build_step(config, dataset, device, fused=fused)

    def epoch(number: int) -> None:
        step.model.train()
        for batch in train.epoch(number):
            step.train(*batch)
        step.evaluated.eval()
        if count_on_host:
            peer.count(step.predict, (val.samples(*batch) for batch in val.epoch(0)))
        else:
            torch.stack([step.validate(*batch)[1].sum(0) for batch in val.epoch(0)]).cpu()

    return epoch
