"""Opens a dataset for training: reads, checks, and gives access to its samples."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trash_seg.config import DataConfig, RuntimeConfig
from trash_seg.data.cache import Cached, open_cache
from trash_seg.data.findings import Finding, count_warnings, raise_errors
from trash_seg.data.loader import Split
from trash_seg.data.samples import ChosenRows, FileImages, FileMasks, SampleReader
from trash_seg.data.source import (
    Part,
    Source,
    check_headers,
    find_absent_in_masks,
    find_same_images,
    fingerprint,
    read_source,
    stat_files,
)
from trash_seg.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A dataset as a run sees it."""

    train: Split
    val: Split
    classes: list[str]
    fingerprint: str
    """16 hex digits of the annotation files and images, wherever they lie; settings are not in it."""
    warnings: dict[str, int]
    """Code of a finding → number."""
    count_pixels: Callable[[], npt.NDArray[np.int64]]

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(C,) training pixels of each class, at the run's image size. Without the cache all masks are drawn for it."""
        return self.count_pixels()


WAY_OUT = "Mend that, or give another data.root; `python -m trash_seg.check` with the same data settings shows all"


def open_dataset(config: DataConfig, *, image_size: int, runtime: RuntimeConfig) -> Dataset:
    """Reads and checks the dataset.

    Args:
        config: Which.
        image_size: Side S that images and masks are resized to, px.
        runtime: Where the cache lies, and whether to use it.

    Raises:
        DataError: It cannot be trained on; the message names the files and what is wrong with them.
    """
    try:
        return _open(config, image_size=image_size, runtime=runtime)
    except DataError as error:
        error.hint = WAY_OUT
        raise


def _open(config: DataConfig, *, image_size: int, runtime: RuntimeConfig) -> Dataset:
    cache_dir = Path(runtime.cache_dir).expanduser()
    try:
        source = read_source(config, cache_dir=cache_dir)
    except OSError as error:
        text = f"runtime.cache_dir={runtime.cache_dir}: the toy dataset cannot be written there ({error.strerror})"
        raise DataError(text) from error
    raise_errors(source.findings)
    findings = source.findings + list(stat_files(source))
    raise_errors(findings)
    reader = SampleReader(source.root, image_size, config.overlap, len(config.classes))
    caches = _open_caches(source, config, reader, runtime) if runtime.cache else None
    if caches is None:
        findings += [finding for unit in source.units for finding in check_headers(source.root, unit)]
    else:
        findings += [finding for cached in caches.values() for finding in cached.findings]
        findings += _find_absent_in_masks(source, caches, config.classes)
    raise_errors(findings)
    findings += find_same_images(source)
    train, val = (_open_split(source.parts[name], reader, caches) for name in ("train", "val"))
    return Dataset(
        train, val, list(config.classes), fingerprint(source), count_warnings(findings),
        lambda: _count_pixels(source.parts["train"], train, len(config.classes), caches),
    )  # fmt: skip


def _find_absent_in_masks(source: Source, caches: dict[str, Cached], classes: list[str]) -> Iterator[Finding]:
    """Of COCO files the annotations have told; of masks the cache knows."""
    for name in ("train", "val"):
        part = source.parts[name]
        if any(record.mask_name is not None for record in part.records):
            pixels = caches[part.unit.name].pixels[part.indices].sum(0).tolist()
            yield from find_absent_in_masks(part.unit.name, name, pixels, classes)


def _open_caches(
    source: Source, config: DataConfig, reader: SampleReader, runtime: RuntimeConfig
) -> dict[str, Cached] | None:
    """Unit's name → samples; None where the disk does not take them."""
    try:
        return {
            unit.name: open_cache(
                unit,
                reader=reader,
                cache_dir=Path(runtime.cache_dir).expanduser(),
                class_indices={"classes": config.classes, "class_of": config.class_of},
                progress=runtime.progress,
            )
            for unit in source.units
        }
    except OSError as error:
        log.warning(
            "runtime.cache_dir=%s: the cache cannot be written (%s); going on without it, which is slower: every image "
            "is decoded in every epoch. Free some space, or choose another folder",
            runtime.cache_dir, error.strerror or error,
        )  # fmt: skip
        return None


def _open_split(part: Part, reader: SampleReader, caches: dict[str, Cached] | None) -> Split:
    records = part.records
    names = [record.file_name for record in records]
    if caches is None:
        return Split(FileImages(reader, records), FileMasks(reader, records), names)
    cached = caches[part.unit.name]
    if part.indices == list(range(len(cached.images))):
        return Split(cached.images, cached.masks, names)
    return Split(ChosenRows(cached.images, part.indices), ChosenRows(cached.masks, part.indices), names)


def _count_pixels(
    part: Part, split: Split, num_classes: int, caches: dict[str, Cached] | None
) -> npt.NDArray[np.int64]:
    if caches is not None:
        return np.asarray(caches[part.unit.name].pixels[part.indices].sum(axis=0), np.int64)
    counts = (np.bincount(split.masks[i].ravel(), minlength=num_classes) for i in range(len(split.names)))
    return np.asarray(sum(counts), np.int64)
