"""The doctor's examination: every annotation, every image, on all cores."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich import get_console
from rich.progress import track

from trash_seg.config import DataConfig
from trash_seg.data.cache import num_cores
from trash_seg.data.coco import ImageRecord, leaves_folder
from trash_seg.data.findings import Finding
from trash_seg.data.image import ImageError, Pixels, read_image
from trash_seg.data.samples import SampleReader
from trash_seg.data.source import (
    Source,
    check_header,
    find_absent_in_masks,
    find_same_images,
    read_source,
    stat_files,
)

MAX_HASH_DISTANCE = 6
"""Bits of 64 by which the perceptual hashes of near-duplicates differ at most."""


@dataclass
class ClassCount:
    """How often one class occurs in one split."""

    images: int = 0
    instances: int = 0
    pixels: int = 0
    """At the images' own sizes; 0 where images were not read."""


@dataclass
class PartSummary:
    """One split in numbers."""

    num_images: int
    num_annotations: int
    sizes: Counter[tuple[int, int]]
    """(width, height) → images."""
    classes: list[ClassCount]
    """By class index."""


@dataclass
class Examination:
    """What the doctor found."""

    config: DataConfig
    source: Source
    reader: SampleReader
    findings: list[Finding]
    parts: dict[str, PartSummary]
    images_read: bool

    @property
    def num_errors(self) -> int:
        """Findings that stop training."""
        return sum(finding.rule.error for finding in self.findings)

    @property
    def num_warnings(self) -> int:
        """Findings that are only counted."""
        return len(self.findings) - self.num_errors


@dataclass
class _ImageResult:
    findings: list[tuple[str, str]] = field(default_factory=list)
    pixels: npt.NDArray[np.int64] | None = None
    hash: int | None = None


def examine(config: DataConfig, *, cache_dir: Path, read_images: bool = True, progress: bool = True) -> Examination:
    """Checks a dataset by every rule. Changes nothing and stops at nothing.

    Args:
        config: The dataset.
        cache_dir: Where the toy dataset lies.
        read_images: False checks the annotation files only.
        progress: Show a bar on a terminal.
    """
    source = read_source(config, cache_dir=cache_dir, with_test=True)
    findings = list(source.findings)
    reader = SampleReader(source.root, 0, config.overlap, len(config.classes))
    parts = {name: _summarise(part.records, len(config.classes)) for name, part in source.parts.items()}
    if read_images:
        findings += stat_files(source)
        findings += find_same_images(source)
        findings += _examine_images(source, reader, parts, classes=config.classes, progress=progress, known=findings)
    return Examination(config, source, reader, findings, parts, read_images)


def _summarise(records: list[ImageRecord], num_classes: int) -> PartSummary:
    classes = [ClassCount() for _ in range(num_classes)]
    for record in records:
        indices = [annotation.class_index for annotation in record.annotations]
        for index in indices:
            classes[index].instances += 1
        for index in set(indices):
            classes[index].images += 1
    sizes = Counter((record.width, record.height) for record in records)
    return PartSummary(len(records), sum(len(record.annotations) for record in records), sizes, classes)


def _examine_images(
    source: Source, reader: SampleReader, parts: dict[str, PartSummary], *,
    classes: list[str], progress: bool, known: list[Finding],
) -> list[Finding]:  # fmt: skip
    """Decodes every image and draws every mask; fills in the pixels."""
    missing = {finding.image for finding in known if finding.code == "missing-image"}
    tasks = [
        (name, record)
        for name, part in source.parts.items()
        for record in part.records
        if record.file_name not in missing and not leaves_folder(record.file_name)
    ]
    with ThreadPoolExecutor(num_cores()) as pool:
        jobs = pool.map(lambda task: _examine_image(reader, task[1]), tasks)
        visible = progress and get_console().is_terminal
        results = list(track(jobs, "reading images", len(tasks), transient=True, disable=not visible))
    findings = []
    for (name, record), result in zip(tasks, results, strict=True):
        unit = source.parts[name].unit.name
        for code, text in result.findings:
            findings.append(Finding(code, unit, f"{text} [{code}]", image=record.file_name))
        if result.pixels is not None:
            for index, count in enumerate(result.pixels.tolist()):
                parts[name].classes[index].pixels += count
                if record.mask_name is not None or index == 0:  # of the others, the annotations have told
                    parts[name].classes[index].images += count > 0
    if any(record.mask_name is not None for _, record in tasks):
        for name in [name for name in ("train", "val") if name in parts]:
            pixels = [count.pixels for count in parts[name].classes]
            findings += find_absent_in_masks(source.parts[name].unit.name, name, pixels, classes)
    same = {(finding.image, finding.other) for finding in known if finding.code == "same-image"}
    hashes = [(name, record.file_name, result.hash) for (name, record), result in zip(tasks, results, strict=True)]
    return [*findings, *_find_near_duplicates(source, hashes, same)]


def _examine_image(reader: SampleReader, record: ImageRecord) -> _ImageResult:
    path = reader.root / record.file_name
    result = _ImageResult(findings=list(check_header(path, record)))
    try:
        if not any(code in ("missing-image", "broken-image", "size-mismatch") for code, _ in result.findings):
            result.hash = perceptual_hash(read_image(path, width=record.width, height=record.height))
        mask = reader.full_mask(record)
        result.pixels = np.bincount(mask.ravel(), minlength=reader.num_classes)
    except ImageError as error:
        result.findings.append((error.code, str(error)))
    return result


def perceptual_hash(image: Pixels) -> int | None:
    """64 bits: which of the lowest 8 × 8 DCT coefficients of the 32 × 32 grey image exceed their median (pHash).

    None for an image that is all but flat, whose bits are noise.
    """
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    if small.std() < 2:
        return None
    lowest = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(lowest > np.median(lowest[1:])).tobytes())


def _find_near_duplicates(
    source: Source, hashes: list[tuple[str, str, int | None]], same: set[tuple[str | None, str | None]]
) -> Iterator[Finding]:
    """For each image of a split, the image of an earlier split that looks most like it, if one does."""
    names = list(source.parts)
    for position, part in enumerate(names):
        earlier = [(name, file, code) for name, file, code in hashes if name in names[:position] and code is not None]
        if not earlier:
            continue
        codes = np.array([code for _, _, code in earlier], np.uint64)
        for name, file, code in hashes:
            if name != part or code is None:
                continue
            distances = np.bitwise_count(codes ^ np.uint64(code))
            nearest = int(np.argmin(distances))
            other_part, other, _ = earlier[nearest]
            if distances[nearest] <= MAX_HASH_DISTANCE and (file, other) not in same:
                text = f"{file} in {part} looks like {other} in {other_part} ({distances[nearest]} of 64 bits differ)"
                yield Finding(
                    "near-duplicate", source.parts[part].unit.name, f"{text} [near-duplicate]", image=file, other=other
                )
