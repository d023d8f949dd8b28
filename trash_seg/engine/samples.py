"""What the best network sees: image, truth and prediction of a few validation images."""

from typing import IO

import cv2
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from trash_seg.config import Config
from trash_seg.data.loader import Split
from trash_seg.engine.metrics import mean_iou
from trash_seg.engine.step import Step
from trash_seg.palette import palette
from trash_seg.rundir import RunDir, write_atomically

Pixels = npt.NDArray[np.uint8]
NUM_WORST, NUM_TYPICAL = 6, 6
NUM_DRAWN, PANEL_SIZE, GAP, LINE_HEIGHT = 4, 224, 6, 22


def choose_images(counts: npt.NDArray[np.int64]) -> list[int]:
    """Indices of the images worth looking at: the worst by mIoU, then some at even ranks of the rest.

    Args:
        counts: (N, C, C) confusion counts of each image.
    """
    order = np.argsort(mean_iou(counts), kind="stable")
    worst, rest = order[:NUM_WORST], order[NUM_WORST:]
    ranks = np.linspace(0, len(rest) - 1, min(NUM_TYPICAL, len(rest))).round().astype(int)
    return [*worst.tolist(), *rest[ranks].tolist()]


def write_samples(run_dir: RunDir, *, step: Step, split: Split, config: Config) -> None:
    """Writes `samples.npz` and draws `samples.png` with the weights of the best epoch.

    `samples.npz`: `names` (K,) str, `images` (K, S, S, 3) uint8 RGB, `truth` and `prediction` (K, S, S) uint8, `epoch`.
    """
    step.evaluated.load_state_dict(safetensors.torch.load_file(run_dir.best_path))
    step.evaluated.eval()
    with np.load(run_dir.confusion_path) as stored:
        chosen, epoch = choose_images(stored["counts"]), int(stored["epoch"])
    images = np.stack([split.images[i] for i in chosen])
    truth = np.stack([split.masks[i] for i in chosen])
    batches = torch.split(torch.from_numpy(images).permute(0, 3, 1, 2), config.training.batch_size)
    prediction = torch.cat([step.predict(batch).cpu() for batch in batches]).numpy().astype(np.uint8)
    names = np.array([split.names[i] for i in chosen])

    def save(file: IO[bytes]) -> None:
        np.savez_compressed(file, names=names, images=images, truth=truth, prediction=prediction, epoch=epoch)

    write_atomically(run_dir.samples_path, save)
    drawn = np.linspace(0, len(chosen) - 1, min(NUM_DRAWN, len(chosen))).round().astype(int)
    picture = draw(images[drawn], truth[drawn], prediction[drawn], classes=config.data.classes)
    encoded, png = cv2.imencode(".png", picture[..., ::-1])
    assert encoded
    write_atomically(run_dir.picture_path, lambda file: file.write(png.tobytes()))


def draw(images: Pixels, truth: Pixels, prediction: Pixels, *, classes: list[str]) -> Pixels:
    """A row an image, columns image, truth, prediction, above them a legend of the classes that occur.

    Args:
        images: (K, S, S, 3) uint8 RGB.
        truth: (K, S, S) uint8 class index.
        prediction: Likewise.
        classes: Names by index.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    colors = np.array(palette(len(classes)), np.uint8)
    present = np.union1d(truth, prediction).tolist()
    rows = [_row([image, colors[t], colors[p]]) for image, t, p in zip(images, truth, prediction, strict=True)]
    return np.concatenate([_legend(classes, present, colors, width=rows[0].shape[1]), *rows])


def _row(panels: list[Pixels]) -> Pixels:
    size = (PANEL_SIZE, PANEL_SIZE)
    scaled = [cv2.resize(panel, size, interpolation=cv2.INTER_NEAREST) for panel in panels]
    return np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in scaled], axis=1)


def _legend(classes: list[str], present: list[int], colors: Pixels, *, width: int) -> Pixels:
    per_line = 4
    num_lines = -(-len(present) // per_line)
    canvas = np.full(((num_lines + 1) * LINE_HEIGHT + 10, width, 3), 255, np.uint8)

    def write(text: str, x: int, y: int) -> None:
        ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's font has no more
        cv2.putText(canvas, ascii_text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)

    for position, index in enumerate(present):
        x, y = position % per_line * (width // per_line) + 4, position // per_line * LINE_HEIGHT + 16
        cv2.rectangle(canvas, (x, y - 10), (x + 12, y + 2), [int(c) for c in colors[index]], -1)
        write(classes[index], x + 18, y)
    for column, title in enumerate(("image", "truth", "prediction")):
        write(title, column * (PANEL_SIZE + GAP) + 4, num_lines * LINE_HEIGHT + 22)
    return canvas
