"""The input pipeline alone, in images/s: ours, and the way of the 2021 experiment log, taking turns on the same data.

    python -m benchmarks.input ../shared/data/trash190

DATA holds train.json and the images it names, in the competition's layout. Each measurement goes through an epoch;
ours and the log's alternate, so that what else the machine does meets both. Medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import RESULTS_DIR, keep
from benchmarks.peer import LogDataset, log_transform
from trash_seg.compose import compose_config
from trash_seg.data.dataset import open_dataset
from trash_seg.data.loader import Loader, Split
from trash_seg.data.samples import ChosenRows

GOALS = {"log": 7.0, "none": 8.0}


def seconds(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    started = time.perf_counter()
    for images, masks in batches:
        assert len(images) == len(masks)
    return time.perf_counter() - started


def our_loader(config: Any, *, num_workers: int, repeat: int) -> Loader:
    split = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime).train
    indices = list(range(len(split.names))) * repeat
    images, masks = np.asarray(split.images), np.asarray(split.masks)
    repeated = Split(ChosenRows(images, indices), ChosenRows(masks, indices), split.names * repeat)
    return Loader(
        repeated, batch_size=config.training.batch_size, seed=21, augmentation=config.augmentation, shuffle=True,
        drop_last=True, num_workers=num_workers,
    )  # fmt: skip


def measure(root: Path, *, augmentation: str, num_workers: int, rounds: int, size: int, repeat: int) -> dict[str, Any]:
    """Alternates the two; returns images/s of each round and the ratio of medians."""
    settings = ["data=trash", f"data.root={root}", f"augmentation={augmentation}", f"training.image_size={size}"]
    config = compose_config([*settings, "training.batch_size=8"])
    loader = our_loader(config, num_workers=num_workers, repeat=repeat)
    num_images = loader.num_batches * loader.batch_size
    peer = DataLoader(
        LogDataset(root, "train", log_transform(size, augmentation), repeat=repeat), batch_size=8, shuffle=True,
        drop_last=True, num_workers=num_workers,
    )  # fmt: skip
    rates: dict[str, list[float]] = {"ours": [], "log": []}
    for epoch in range(rounds):
        rates["ours"].append(num_images / seconds(loader.epoch(epoch)))
        rates["log"].append(num_images / seconds(peer))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "augmentation": augmentation, "num_workers": num_workers, "rates": rates, "medians": medians,
        "ratio": medians["ours"] / medians["log"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeat", type=int, default=4, help="times that the split makes an epoch (workers start anew)"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "input.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print("images/s, median of each; 0 workers: within the process, on one core")
    print(f"{'augmentation':14}{'workers':>8}{'ours':>10}{'log':>10}{'ratio':>8}{'goal':>7}")
    for augmentation, goal in GOALS.items():
        for num_workers in (0, 1, 2):
            result = measure(
                arguments.data, augmentation=augmentation, num_workers=num_workers, rounds=arguments.rounds,
                size=arguments.size, repeat=arguments.repeat,
            )  # fmt: skip
            medians = result["medians"]
            print(
                f"{augmentation:14}{num_workers:8}{medians['ours']:10.0f}{medians['log']:10.0f}"
                f"{result['ratio']:8.1f}{goal:7.1f}",
                flush=True,
            )
            results.append(result)
    keep(arguments.out, size=arguments.size, repeat=arguments.repeat, results=results)


if __name__ == "__main__":
    main()
