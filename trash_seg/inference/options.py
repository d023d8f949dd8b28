"""What a prediction is asked to do. Standard library only, so that `--help` answers at once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TTA = ("none", "hflip", "flips", "turns", "all")
PROBABILITY_TYPES = ("float16", "uint8")


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


Say = Callable[[str], None]
"""Shows one line to the person."""
