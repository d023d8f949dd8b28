"""The input pipeline alone, in images/s: ours, and the way of the 2021 experiment log, taking turns on the same data.

    python -m benchmarks.input ../shared/data/trash190

DATA holds train.json and the images it names, in the competition's layout. Each measurement goes through an epoch;
ours and the log's alternate, so that what else the machine does meets both. Medians are compared.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from pycocotools.coco import COCO
from torch.utils.data import DataLoader, Dataset

from trash_seg.compose import compose_config
from trash_seg.data.dataset import open_dataset
from trash_seg.data.loader import Loader, Split
from trash_seg.data.samples import ChosenRows

PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations", "pillow", "pycocotools")
GOALS = {"log": 3.0, "none": 8.0}


class LogDataset(Dataset[Any]):
    """The log's way: read the JPEG, rasterise the polygons, resize, augment and normalise, for every sample anew."""

    def __init__(self, root: Path, transform: A.Compose, *, repeat: int) -> None:
        self.root, self.transform = root, transform
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(root / "train.json"))
        self.ids = sorted(self.coco.getImgIds()) * repeat

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        info = self.coco.loadImgs(self.ids[index])[0]
        image = cv2.cvtColor(cv2.imread(str(self.root / info["file_name"])), cv2.COLOR_BGR2RGB)
        mask = np.zeros((info["height"], info["width"]))
        for annotation in self.coco.loadAnns(self.coco.getAnnIds(imgIds=info["id"])):
            mask = np.maximum(self.coco.annToMask(annotation) * (annotation["category_id"] + 1), mask)
        sample = self.transform(image=image, mask=mask.astype(np.float32))
        return sample["image"], sample["mask"].long()


def log_transform(size: int, augmentation: str) -> A.Compose:
    """The log's augmentation, normalised last, as albumentations 2 needs it."""
    blur_or_distort = [A.MotionBlur(p=1.0), A.OpticalDistortion(border_mode=cv2.BORDER_REFLECT_101, p=1.0)]
    augment = [A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90(), A.OneOf(blur_or_distort, p=2 / 3)]
    normalize = A.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), max_pixel_value=255.0)
    return A.Compose([A.Resize(size, size), *(augment if augmentation == "log" else []), normalize, ToTensorV2()])


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
        LogDataset(root, log_transform(size, augmentation), repeat=repeat), batch_size=8, shuffle=True, drop_last=True,
        num_workers=num_workers,
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


def describe_machine() -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _lines(path: str) -> Iterator[str]:
    if Path(path).exists():
        yield from Path(path).read_text().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeat", type=int, default=4, help="times that the split makes an epoch (workers start anew)"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "input.json")
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
    command = subprocess.list2cmdline(["python", "-m", "benchmarks.input", *sys.argv[1:]])
    content = {
        "command": command,
        "machine": describe_machine(),
        "size": arguments.size,
        "repeat": arguments.repeat,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
