"""Sweeps with known truth: run directories as the trainer leaves them, written through RunDir."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trash_seg.rundir import RunDir, write_atomically

CLASSES = ["Background", "Paper", "Metal", "Glass", "Plastic"]
SIGMA = 0.008
DONE = {"state": "done"}


def configuration(*, encoder: str, decoder: str, weights: str | None = None, epochs: int = 8, **training: Any) -> dict:
    """A nested config with the keys that the report looks at."""
    return {
        "encoder": {"name": encoder, "weights": weights},
        "decoder": {"name": decoder, "options": {}},
        "data": {
            "name": "toy",
            "format": "toy",
            "root": "/data",
            "classes": CLASSES,
            "class_of": {},
            "overlap": "highest_class",
        },
        "augmentation": {"name": "log", "horizontal_flip": 0.5},
        "training": {"epochs": epochs, "batch_size": 8, "image_size": 64, "precision": "fp32", **training},
        "optimizer": {"name": "Adam", "lr": 1e-4, "weight_decay": 1e-6, "options": {}},
        "loss": {"name": "cross_entropy"},
        "runtime": {"device": "cpu"},
        "sweep": {"name": "simulated"},
    }


def curve(final: float, epochs: int, rng: np.random.Generator) -> np.ndarray:
    """(epochs,) mIoU that rises to a maximum of exactly `final`."""
    rise = final * (1 - 0.45 * np.exp(-np.arange(1, epochs + 1) / 2.5)) - np.abs(rng.normal(0, 0.006, epochs))
    return np.clip(rise * final / rise.max(), 0, 1) if final > 0 else np.zeros(epochs)


def write_run(
    sweep_dir: Path,
    *,
    encoder: str = "resnet18",
    decoder: str = "Unet",
    seed: int = 21,
    hash: str = "0123abcd",
    miou: float = 0.4,
    parameters: int = 14_000_000,
    epochs: int = 8,
    finished: int | None = None,
    status: Mapping[str, Any] = DONE,
    config: Mapping[str, Any] | None = None,
    classes: Sequence[str] = CLASSES,
    num_images: int = 0,
    name: str | None = None,
) -> RunDir:
    """One run directory whose best mIoU is `miou`; `status` overrides single fields of its status.

    `num_images` > 0 also writes confusion counts and sample pictures of so many validation images; then `miou` is how
    good the predictions are, and their mIoU is recorded.
    """
    rng = np.random.default_rng(abs(hash_of(f"{encoder}{decoder}{hash}")) + seed)
    directory = RunDir(sweep_dir / (name or f"{encoder}-{decoder}-s{seed}-{hash}"))
    directory.path.mkdir(parents=True)
    finished = epochs if finished is None else finished
    predicted = None
    if num_images:
        predicted = predict(classes=classes, num_images=num_images, quality=miou, seed=seed)
        miou = pooled_miou(predicted["counts"])
    values = curve(miou, epochs, rng)[:finished]
    rows = [_history_row(i, float(value), epochs, classes) for i, value in enumerate(values, start=1)]
    if rows:
        directory.write_history(rows)
    scores = [_score(row, classes) for row in rows]
    best = max(scores, key=lambda s: s["miou"]) if scores else None
    if config is None:
        config = configuration(encoder=encoder, decoder=decoder, epochs=epochs)
    directory.write_status(
        {
            "run": directory.name,
            "hash": hash,
            "seed": seed,
            "config": dict(config),
            "overrides": [f"encoder={encoder}", f"decoder={decoder}", f"seed={seed}", "sweep.name=simulated"],
            "command": f"python -m trash_seg.train encoder={encoder} decoder={decoder} seed={seed}",
            "parameters": parameters,
            "gflops": parameters / 1.1e6,
            "environment": {
                "trash_seg": "0.1.0", "python": "3.11.7", "torch": "2.11.0", "torchvision": "0.26.0",
                "segmentation-models-pytorch": "0.5.0", "timm": "1.0.20", "albumentations": "2.0.8", "numpy": "2.4.0",
                "platform": "Linux", "host": "node1", "device": "cpu", "num_threads": 2,
            },
            "data": {"fingerprint": "f00dfeed", "num_train": 96, "num_val": max(24, num_images), "warnings": {}},
            "started": "2026-01-01T10:00:00Z",
            "updated": "2026-01-01T10:10:00Z",
            "seconds": parameters / 4e4,
            "attempts": 1,
            "epoch": finished,
            "epochs": epochs,
            "best": best,
            "last": scores[-1] if scores else None,
            "peak_memory_bytes": 10**9,
            "error": None,
            "hint": None,
            "traceback": None,
            **status,
        }
    )  # fmt: skip
    directory.log_path.write_text("".join(f"[10:00:{i:02d}] a line of the log, number {i}\n" for i in range(40)))
    if predicted is not None:
        write_pictures(directory, predicted, classes=classes)
    return directory


def hash_of(text: str) -> int:
    """Python's own hash of text differs between processes."""
    return int.from_bytes(text.encode()[-6:], "big")


def _history_row(epoch: int, miou: float, epochs: int, classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"epoch": epoch, "train_loss": 1.5 / epoch, "val_loss": 1.6 / epoch + 0.01 * epoch}
    row |= {"miou": miou, "miou_image": miou * 0.9, "miou_batch": miou * 0.95, "lr": 1e-4}
    row |= {"train_seconds": 40.0, "val_seconds": 4.0}
    return row | {f"iou_{name}": value for name, value in _ious(miou, classes).items()}


def _ious(miou: float, classes: Sequence[str]) -> dict[str, float | None]:
    """Per class, with mean miou; the last class occurs nowhere."""
    factors = np.linspace(1.4, 0.6, len(classes) - 1)
    return {**{n: float(min(1, miou * f)) for n, f in zip(classes, factors, strict=False)}, classes[-1]: None}


def _score(row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    score = {key: row[key] for key in ("epoch", "miou", "miou_image", "miou_batch")}
    return score | {"iou": {name: row[f"iou_{name}"] for name in classes}}


def predict(*, classes: Sequence[str], num_images: int, quality: float, seed: int) -> dict[str, np.ndarray]:
    """Images (N, 48, 48, 3), the same for every run, with truth, prediction and counts (N, C, C)."""
    size, num_classes = 48, len(classes) - 1
    counts = np.zeros((num_images, len(classes), len(classes)), dtype=np.int64)
    pictures: dict[str, list[np.ndarray]] = {"images": [], "truth": [], "prediction": []}
    for index in range(num_images):
        scene = np.random.default_rng(index)
        image, truth = draw_scene(scene, size=size, num_classes=num_classes)
        noise = np.random.default_rng((seed, index))
        hardness = scene.uniform(0.3, 1.2)
        wrong = noise.random((size, size)) < (1 - quality) * hardness * 0.8
        prediction = np.where(wrong, noise.integers(0, num_classes, (size, size)), truth).astype(np.uint8)
        np.add.at(counts[index], (truth.ravel(), prediction.ravel()), 1)
        for key, value in (("images", image), ("truth", truth), ("prediction", prediction)):
            pictures[key].append(value)
    return {"counts": counts, **{key: np.stack(values) for key, values in pictures.items()}}


def pooled_miou(counts: np.ndarray) -> float:
    """By the definition, class by class."""
    total = counts.sum(axis=0)
    ious = []
    for c in range(len(total)):
        union = total[c].sum() + total[:, c].sum() - total[c, c]
        if union:
            ious.append(total[c, c] / union)
    return float(np.mean(ious))


def write_pictures(directory: RunDir, predicted: Mapping[str, np.ndarray], *, classes: Sequence[str]) -> None:
    """confusion.npz and samples.npz."""
    counts = predicted["counts"]
    names = np.array([f"batch_1/{index:06d}.jpg" for index in range(len(counts))])
    stored = {"counts": counts, "images": names, "classes": np.array(classes), "epoch": np.array(8)}
    write_atomically(directory.confusion_path, lambda file: np.savez_compressed(file, **stored))
    kept = {key: predicted[key][:12] for key in ("images", "truth", "prediction")}
    sampled = {"names": names[:12], "epoch": np.array(8), **kept}
    write_atomically(directory.samples_path, lambda file: np.savez_compressed(file, **sampled))


def draw_scene(rng: np.random.Generator, *, size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (size, size, 3) uint8 with rectangles of classes, and its mask (size, size) uint8."""
    truth = np.zeros((size, size), dtype=np.uint8)
    image = np.full((size, size, 3), rng.integers(60, 200), dtype=np.uint8)
    for _ in range(3):
        top, left = rng.integers(0, size // 2, 2)
        height, width = rng.integers(8, size // 2, 2)
        label = rng.integers(1, num_classes)
        truth[top : top + height, left : left + width] = label
        image[top : top + height, left : left + width] = rng.integers(0, 255, 3)
    return image, truth


def write_sweep(
    sweep_dir: Path,
    *,
    means: Sequence[float],
    num_seeds: int = 3,
    sigma: float = SIGMA,
    seed: int = 0,
    epochs: int = 8,
    num_images: int = 0,
) -> None:
    """One configuration for each true mean, with `num_seeds` replicates each."""
    rng = np.random.default_rng(seed)
    decoders = ["Unet", "FPN", "DeepLabV3Plus", "PSPNet"]
    for index, mean in enumerate(means):
        for replicate in range(num_seeds):
            write_run(
                sweep_dir,
                encoder=f"encoder{index // 4:02d}",
                decoder=decoders[index % 4],
                hash=f"{index + 1:08x}",
                seed=21 + replicate,
                miou=float(np.clip(rng.normal(mean, sigma), 0, 1)),
                parameters=5_000_000 + 1_000_000 * ((index * 7) % 40),
                epochs=epochs,
                num_images=num_images,
            )
