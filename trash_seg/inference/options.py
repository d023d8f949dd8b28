"""What a prediction or an export is asked to do. Standard library only, so that `--help` answers at once."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TTA = ("none", "hflip", "flips", "turns", "all")
NOTHING_TO_WRITE = "nothing to write: give --masks, --overlays, --probabilities, --coco, --submission or --truth"
PROBABILITY_TYPES = ("float16", "uint8")
EXPORT_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True)
class Options:
    """The command line of `python -m trash_seg.predict`."""

    runs: list[Path]
    data: list[Path]
    split: str | None
    data_root: Path | None
    images: Path | None
    truth: Path | None
    masks: Path | None
    overlays: Path | None
    probabilities: Path | None
    probability_type: str
    coco: Path | None
    submission: Path | None
    scores: Path | None
    confusion: Path | None
    select: bool
    tta: str
    scales: list[float]
    window: int | None
    overlap: float
    batch_size: int | None
    device: str
    precision: str | None
    num_threads: int | None
    allow_unfinished: bool
    overwrite: bool

    @property
    def folders(self) -> list[Path]:
        """Outputs of one file an image."""
        return [path for path in (self.masks, self.overlays, self.probabilities) if path is not None]

    @property
    def files(self) -> list[Path]:
        """Outputs of one file for all images."""
        given = (self.coco, self.submission, self.scores, self.confusion)
        return [path for path in given if path is not None]


@dataclass(frozen=True)
class ExportOptions:
    """The command line of `python -m trash_seg.export`."""

    run: Path
    format: str
    output: Path | None
    data: list[Path]
    data_root: Path | None
    num_images: int
    num_threads: int | None
    allow_unfinished: bool
    overwrite: bool

    @property
    def path(self) -> Path:
        """The file to write: by default named like the run, in the current folder."""
        return self.output or Path(f"{self.run.resolve().name}{EXPORT_SUFFIXES[self.format]}")


def number(kind: Callable[[str], Any], holds: Callable[[Any], bool], rule: str) -> Callable[[str], Any]:
    """A type for argparse: refuses what `kind` cannot read, and what breaks the rule, with the rule."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if holds(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text}: give {rule}")

    return read


positive_count = number(int, lambda value: value >= 1, "a whole number >= 1")
