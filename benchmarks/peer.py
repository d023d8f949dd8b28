"""The experiment log's way of working, written afresh as one plain script: what the other benchmarks compare with.

    python -m benchmarks.peer DATA --pairs resnext50_32x4d:DeepLabV3Plus,efficientnet-b3:Unet

Every image is read from disk and its polygons are drawn again in every epoch, training is fp32 and eager, the metric is
numpy on the host, and models run one after the other. DATA holds train.json, val.json and the images they name.
"""

import argparse
import contextlib
import io
import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from pycocotools.coco import COCO
from torch.utils.data import DataLoader, Dataset


class LogDataset(Dataset[Any]):
    """Reads the JPEG, draws the polygons, resizes, augments and normalises, for every sample anew."""

    def __init__(self, root: Path, part: str, transform: A.Compose, *, repeat: int = 1) -> None:
        self.root, self.transform = root, transform
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(root / f"{part}.json"))
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


def log_transform(size: int, augmentation: str, *, resize: bool = True) -> A.Compose:
    """The log's augmentation, normalised last, as albumentations 2 needs it."""
    blur_or_distort = [A.MotionBlur(p=1.0), A.OpticalDistortion(border_mode=cv2.BORDER_REFLECT_101, p=1.0)]
    augment = [A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90(), A.OneOf(blur_or_distort, p=2 / 3)]
    normalize = A.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), max_pixel_value=255.0)
    first = [A.Resize(size, size)] if resize else []
    return A.Compose([*first, *(augment if augmentation == "log" else []), normalize, ToTensorV2()])


def train_epoch(
    model: torch.nn.Module, batches: Iterable[Any], optimizer: torch.optim.Optimizer, device: torch.device
) -> float:
    """Seconds of an epoch of training."""
    started = time.perf_counter()
    model.train()
    for step, (images, masks) in enumerate(batches):
        loss = torch.nn.functional.cross_entropy(model(images.to(device)), masks.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 25 == 0:
            loss.item()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def validate(
    model: torch.nn.Module, batches: Iterable[Any], device: torch.device, *, num_classes: int = 12
) -> tuple[float, float]:
    """Seconds, and the pooled mIoU."""
    started = time.perf_counter()
    model.eval()
    counts = count(lambda images: model(images.to(device)).argmax(1), batches, num_classes=num_classes)
    with np.errstate(invalid="ignore"):
        iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    return time.perf_counter() - started, float(np.nanmean(iou))


def count(predict: Callable[[Any], torch.Tensor], batches: Iterable[Any], *, num_classes: int = 12) -> Any:
    """Confusion counts on the host, as (C, C) by [truth, prediction]."""
    counts = np.zeros((num_classes, num_classes))
    for images, masks in batches:
        cells = num_classes * masks.cpu().numpy().astype(int).ravel() + predict(images).cpu().numpy().ravel()
        counts += np.bincount(cells, minlength=num_classes**2).reshape(counts.shape)
    return counts


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def build(pair: str, device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    encoder, decoder = pair.split(":")
    model = getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None, classes=12).to(device)
    return model, torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-6)


def run(arguments: argparse.Namespace, pair: str) -> dict[str, Any]:
    seed_everything(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = {
        part: DataLoader(
            LogDataset(arguments.data, part, log_transform(arguments.size, augmentation)), batch_size=8,
            shuffle=part == "train", drop_last=part == "train", num_workers=arguments.workers,
        )
        for part, augmentation in (("train", "log"), ("val", "none"))
    }  # fmt: skip
    seed_everything(arguments.seed)
    model, optimizer = build(pair, device)
    epochs = []
    for _ in range(arguments.epochs):
        train_seconds = train_epoch(model, loaders["train"], optimizer, device)
        val_seconds, miou = validate(model, loaders["val"], device)
        epochs.append({"train_seconds": train_seconds, "val_seconds": val_seconds, "miou": miou})
    device_gigabytes = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"pair": pair, "epochs": epochs, "device_gigabytes": device_gigabytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", default="resnext50_32x4d:DeepLabV3Plus")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4, help="loader processes, as in the log (%(default)s)")
    parser.add_argument("--seed", type=int, default=21)
    arguments = parser.parse_args()
    print(json.dumps([run(arguments, pair) for pair in arguments.pairs.split(",")]))


if __name__ == "__main__":
    main()
