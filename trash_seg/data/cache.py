"""Every image decoded and every mask drawn once: memory-mapped arrays that all runs share.

A directory `samples-<key>` holds `images.npy` (N, S, S, 3) uint8, `masks.npy` (N, S, S) uint8, `pixels.npy` (N, C)
int64 (the pixels of each class in each mask) and `about.json`. It is made aside and renamed when it is whole.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import get_console
from rich.progress import track
from torch.utils.data import Dataset

from trash_seg.data.findings import Finding, raise_errors
from trash_seg.data.samples import SampleReader
from trash_seg.data.source import Unit, check_headers
from trash_seg.data.workers import prepared
from trash_seg.errors import DataError
from trash_seg.locks import locked

log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever decoding, drawing or resizing changes."""
CHUNK = 8
"""Samples that a process is handed at once."""


@dataclass(frozen=True)
class Cached:
    """The samples of a unit."""

    images: npt.NDArray[np.uint8]
    """(N, S, S, 3) RGB, memory-mapped."""
    masks: npt.NDArray[np.uint8]
    """(N, S, S) class index, memory-mapped."""
    pixels: npt.NDArray[np.int64]
    """(N, C) pixels of each class."""
    findings: list[Finding]
    """Of the image files' heads; stored, so that they are read once too."""


def open_cache(
    unit: Unit, *, reader: SampleReader, cache_dir: Path, class_indices: dict[str, Any], progress: bool
) -> Cached:
    """Maps the samples of a unit; builds them first if nobody has, and waits if somebody does.

    Args:
        unit: The images, with their stats.
        reader: How samples are made.
        cache_dir: Where caches lie.
        class_indices: Every setting that decides which class an annotation gets.
        progress: Show a bar on a terminal.

    Raises:
        DataError: An image cannot be used, or the cache is damaged.
        OSError: The cache cannot be written. Nothing is left of it.
    """
    directory = cache_dir / f"samples-{_key(unit, reader, class_indices)}"
    if not directory.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_builder(directory):
            if not directory.exists():
                findings = list(check_headers(reader.root, unit))
                raise_errors(findings)
                _build(directory, unit, reader, findings, progress=progress)
                log.info("cache: %d images of %s decoded into %s", len(unit.records), unit.name, directory)
                return _map(directory)
    log.info("cache: 0 images of %s decoded, %d mapped from %s", unit.name, len(unit.records), directory)
    return _map(directory)


def _key(unit: Unit, reader: SampleReader, class_indices: dict[str, Any]) -> str:
    """Of everything that decides the content. The data folder itself is not in it, so a moved dataset fits too.

    Each file's time of modification is: a copy fits where it keeps that, as by `cp -a` or `rsync -t`.
    """
    digest = hashlib.sha256()
    settings = [VERSION, reader.image_size, reader.overlap, reader.num_classes, class_indices, unit.name, unit.digest]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for record, stat in zip(unit.records, unit.stats, strict=True):
        digest.update(f"\n{record.file_name}\t{stat}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


@contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Holds the lock on building a cache; it dies with its process. Clears away what a killed builder left."""
    # What is built aside and renamed stays whole without a lock; at worst it is built twice.
    with locked(directory.with_name(f".{directory.name}.lock"), what=str(directory)) as held:
        if held:
            for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _build(directory: Path, unit: Unit, reader: SampleReader, findings: list[Finding], *, progress: bool) -> None:
    aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".tmp"))
    try:
        pixels = _write_samples(aside, unit, reader, progress=progress)
        np.save(aside / "pixels.npy", pixels)
        about = {"version": VERSION, "unit": unit.name, "findings": [asdict(finding) for finding in findings]}
        (aside / "about.json").write_text(json.dumps(about))
        for path in aside.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        aside.chmod(0o777 & ~0o022)
        try:
            os.rename(aside, directory)
        except OSError:
            if not directory.exists():  # else another process was first, where there are no locks
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_samples(aside: Path, unit: Unit, reader: SampleReader, *, progress: bool) -> npt.NDArray[np.int64]:
    """Writes images.npy and masks.npy on all cores. Returns the pixels (N, C)."""
    size, num_images = reader.image_size, len(unit.records)
    images = _SampleFile.create(aside / "images.npy", (num_images, size, size, 3))
    masks = _SampleFile.create(aside / "masks.npy", (num_images, size, size))
    chunks = _Chunks(unit, reader, images, masks)
    # Processes: of the work half, the masks above all, keeps the interpreter's lock. Elsewhere each would import anew.
    num_workers = min(num_cores(), len(chunks)) if len(chunks) > 1 and sys.platform == "linux" else 0
    counted = prepared(chunks, num_workers=num_workers, errors=(DataError, OSError))
    visible = progress and get_console().is_terminal
    parts = track(counted, f"decoding {unit.name}", len(chunks), transient=True, disable=not visible)
    return np.concatenate([np.array(part) for part in parts])  # copies: each part holds a file descriptor


@dataclass(frozen=True)
class _SampleFile:
    """A .npy file of uint8 that is filled in any order.

    By plain writes, not a writable map: a full disk is then an error instead of a SIGBUS, and memory stays flat.
    """

    path: Path
    start: int
    """Where the data begins."""

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...]) -> "_SampleFile":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            return cls(path, file.tell())

    def write(self, sample: npt.NDArray[np.uint8], *, index: int) -> None:
        """Writes a sample at its place."""
        with self.path.open("r+b") as file:
            file.seek(self.start + index * sample.nbytes)
            file.write(sample.tobytes())


class _Chunks(Dataset[npt.NDArray[np.int64]]):
    """Decodes, draws and writes a few samples; gives the pixels (n, C) of each class in each."""

    def __init__(self, unit: Unit, reader: SampleReader, images: _SampleFile, masks: _SampleFile) -> None:
        self.unit, self.reader = unit, reader
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return -(-len(self.unit.records) // CHUNK)

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        pixels = []
        first = index * CHUNK
        for place, record in enumerate(self.unit.records[first : first + CHUNK], start=first):
            mask = self.reader.mask(record)
            self.images.write(self.reader.image(record), index=place)
            self.masks.write(mask, index=place)
            pixels.append(np.bincount(mask.ravel(), minlength=self.reader.num_classes))
        return np.stack(pixels)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _map(directory: Path) -> Cached:
    try:
        about = json.loads((directory / "about.json").read_bytes())
        images, masks = (np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r")) for name in ("images", "masks"))
        findings = [Finding(**finding) for finding in about["findings"]]
        return Cached(images, masks, np.load(directory / "pixels.npy"), findings)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise DataError(f"{directory}: is damaged ({error}); delete it, and it is built again") from error
