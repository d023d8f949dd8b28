"""Which images a dataset has, in which split, and what is wrong with its files. Decodes nothing."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trash_seg.config import DataConfig
from trash_seg.data.coco import CocoReader, ImageRecord, leaves_folder
from trash_seg.data.findings import Finding
from trash_seg.data.folder import read_folder
from trash_seg.data.image import ImageError, is_turned, read_header
from trash_seg.data.splits import assign
from trash_seg.data.toy import make_toy


@dataclass
class Unit:
    """The images of one annotation file (or folder); what the cache holds together."""

    name: str
    records: list[ImageRecord]
    digest: str
    """Of the annotation file's bytes."""
    stats: list[tuple[int, ...]] = field(default_factory=list)
    """Size in bytes and mtime in ns of each record's files; filled by `stat_files`."""


@dataclass
class Part:
    """A split: some images of a unit."""

    unit: Unit
    indices: list[int]

    @property
    def records(self) -> list[ImageRecord]:
        """In the order of the annotation file."""
        return [self.unit.records[index] for index in self.indices]


@dataclass
class Source:
    """A dataset's files, before any image is decoded."""

    root: Path
    parts: dict[str, Part]
    """train, val and, where it was asked for and there is one, test."""
    findings: list[Finding]

    @property
    def units(self) -> list[Unit]:
        """Each once."""
        return list({id(part.unit): part.unit for part in self.parts.values()}.values())


def read_source(config: DataConfig, *, cache_dir: Path, with_test: bool = False) -> Source:
    """Reads the annotation files.

    Args:
        config: The dataset.
        cache_dir: Where the toy dataset lies.
        with_test: The test split too, for the doctor.
    """
    if config.format == "toy":
        root = make_toy(cache_dir, classes=config.classes)
    else:
        assert config.root is not None  # DataConfig has checked it
        root = Path(config.root).expanduser()
    findings: list[Finding] = []
    if config.annotations is not None:
        unit = _read_units(config, root, {"all": config.annotations}, findings)["all"]
        parts = _split(unit, config, with_test=with_test)
    else:
        named = {"train": config.train, "val": config.val, "test": config.test if with_test else None}
        given = {part: name for part, name in named.items() if name is not None}
        if "test" in given and not (root / given["test"]).exists():
            text = f"{given['test']}: {root / given['test']} is not there [missing-test]"
            findings.append(Finding("missing-test", given.pop("test"), text))
        if missing := [part for part in ("train", "val") if part not in given]:
            text = f"data={config.name} names no data.{missing[0]}; give it, or data.annotations for both"
            findings.append(Finding("missing-file", config.name, text))
        units = _read_units(config, root, given, findings)
        parts = {part: Part(unit, list(range(len(unit.records)))) for part, unit in units.items()}
    if config.format != "folder":  # there, only the masks themselves tell
        findings += find_absent_classes(parts, config.classes)
    return Source(root, parts, findings)


def _read_units(config: DataConfig, root: Path, names: dict[str, str], findings: list[Finding]) -> dict[str, Unit]:
    if config.format == "folder":
        return {part: Unit(name, *read_folder(root, name, findings=findings)) for part, name in names.items()}
    reader = CocoReader(root, classes=config.classes, class_of=config.class_of)
    files = {part: reader.read(name, annotated=part != "test") for part, name in names.items()}
    reader.check_mapping(list(files.values()))
    findings += reader.findings
    return {part: Unit(file.name, file.images, file.digest) for part, file in files.items()}


def _split(unit: Unit, config: DataConfig, *, with_test: bool) -> dict[str, Part]:
    """Divides one unit by folds (every image validates once), or into train, val and test."""
    present = np.zeros((len(unit.records), len(config.classes)), bool)
    for row, record in zip(present, unit.records, strict=True):
        row[[annotation.class_index for annotation in record.annotations]] = True
    if config.num_folds is not None:
        folds = assign(present, fractions=[1 / config.num_folds] * config.num_folds, seed=config.split_seed)
        is_val, is_test = folds == config.fold, np.zeros(len(folds), bool)
    else:
        shares = [1 - config.val_fraction - config.test_fraction, config.val_fraction, config.test_fraction]
        drawn = assign(present, fractions=shares, seed=config.split_seed)
        is_val, is_test = drawn == 1, drawn == 2
    chosen = {"train": ~is_val & ~is_test, "val": is_val, "test": is_test}
    return {
        part: Part(unit, np.flatnonzero(rows).tolist())
        for part, rows in chosen.items()
        if part != "test" or (with_test and rows.any())
    }


def find_absent_classes(parts: dict[str, Part], classes: list[str]) -> Iterator[Finding]:
    """What training and validation split lack: images, annotations, or one class; a finding for each."""
    for name in ("train", "val"):
        part = parts.get(name)
        if part is None or not part.unit.records:
            continue
        if not part.indices:
            text = f"{part.unit.name}: no image is left for {name} [empty-split]"
            yield Finding("empty-split", part.unit.name, text)
            continue
        present = {annotation.class_index for record in part.records for annotation in record.annotations}
        if not any(record.annotations for record in part.unit.records):
            text = f"{part.unit.name}: not one annotation can be used; all would be background [no-labels]"
            yield Finding("no-labels", part.unit.name, text)
            continue
        for index, class_name in enumerate(classes):
            if index > 0 and index not in present:
                yield _absent_class(part.unit.name, name, class_name)


def find_absent_in_masks(unit: str, name: str, pixels: Sequence[int], classes: list[str]) -> Iterator[Finding]:
    """What a split of index masks lacks.

    Args:
        unit: The unit's name.
        name: The split's.
        pixels: (C,) of each class in all of its masks.
        classes: Their names.
    """
    if not any(pixels[1:]):
        yield Finding("no-labels", unit, f"{unit}: the masks of {name} are background alone [no-labels]")
        return
    for class_name, count in zip(classes[1:], pixels[1:], strict=True):
        if count == 0:
            yield _absent_class(unit, name, class_name)


def _absent_class(unit: str, name: str, class_name: str) -> Finding:
    return Finding("absent-class", unit, f"{unit}: no {class_name} in {name} [absent-class]")


def stat_files(source: Source) -> Iterator[Finding]:
    """Fills the units' stats; finds images that are not there."""
    for unit in source.units:
        unit.stats = []
        for record in unit.records:
            stat: list[int] = []
            for name in (record.file_name, record.mask_name):
                if name is None or leaves_folder(name):
                    continue
                try:
                    found = (source.root / name).stat()
                    stat += [found.st_size, found.st_mtime_ns]
                except OSError as error:
                    text = f"{unit.name}: {source.root / name} cannot be read ({error.strerror}) [missing-image]"
                    yield Finding("missing-image", unit.name, text, image=name)
                    stat += [-1, 0]
            unit.stats.append(tuple(stat))


def check_headers(root: Path, unit: Unit) -> Iterator[Finding]:
    """What the head of each image file tells: size, orientation, mode, or that it is no image."""
    for record in unit.records:
        for code, text in check_header(root / record.file_name, record):
            yield Finding(code, unit.name, f"{text} [{code}]", image=record.file_name)


def check_header(path: Path, record: ImageRecord) -> Iterator[tuple[str, str]]:
    """Codes and texts for one image."""
    try:
        header = read_header(path)
        turned = is_turned(header, (record.width, record.height), path)
    except ImageError as error:
        yield error.code, str(error)
        return
    if header.orientation != 1:
        taken = "as EXIF says" if turned else "as stored"
        yield "exif-orientation", f"{path}: EXIF orientation {header.orientation}; taken {taken}"
    if header.mode != "RGB":
        yield "image-mode", f"{path}: mode {header.mode}"


def find_same_images(source: Source) -> Iterator[Finding]:
    """Images in two splits with the same bytes. Only files of equal size that agree in the middle are read whole."""
    by_size: dict[object, list[tuple[str, str]]] = defaultdict(list)
    for name, part in source.parts.items():
        for index in part.indices:
            if part.unit.stats[index] and part.unit.stats[index][0] >= 0:
                by_size[part.unit.stats[index][0]].append((name, part.unit.records[index].file_name))
    for group in _in_two_splits(by_size):
        by_middle: dict[object, list[tuple[str, str]]] = defaultdict(list)
        for part_name, name in group:
            by_middle[_read_middle(source.root / name)].append((part_name, name))
        for alike in _in_two_splits(by_middle):
            yield from _compare_bytes(source, alike)


def _in_two_splits(groups: dict[object, list[tuple[str, str]]]) -> Iterator[list[tuple[str, str]]]:
    return (group for group in groups.values() if len({part for part, _ in group}) > 1)


def _read_middle(path: Path) -> bytes:
    """A page of the file."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(4096)


def _compare_bytes(source: Source, group: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    first: dict[bytes, tuple[str, str]] = {}
    for part, name in group:
        with (source.root / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        other_part, other = first.setdefault(digest, (part, name))
        if other_part != part:
            text = f"{name} in {part} is the same image as {other} in {other_part} [same-image]"
            yield Finding("same-image", source.parts[part].unit.name, text, image=name, other=other)


def fingerprint(source: Source) -> str:
    """16 hex digits of the annotation files and of the images' names and sizes in bytes, wherever they lie."""
    digest = hashlib.sha256()
    for unit in source.units:
        digest.update(unit.digest.encode())
        for record, stat in zip(unit.records, unit.stats, strict=True):
            digest.update(f"\n{record.file_name}\t{stat[0::2]}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
