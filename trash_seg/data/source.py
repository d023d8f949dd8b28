"""Which images a dataset has, in which split, and what is wrong with its files. Decodes nothing."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trash_seg.config import DataConfig
from trash_seg.data.coco import AnnotationFile, CocoReader, ImageRecord
from trash_seg.data.findings import Finding
from trash_seg.data.image import ImageError, is_turned, read_header
from trash_seg.data.toy import make_toy


@dataclass
class Source:
    """A dataset's files, before any image is decoded."""

    root: Path
    parts: dict[str, list[ImageRecord]]
    """train, val and, where there is one, test."""
    findings: list[Finding]
    digests: list[str]
    """Of the annotation files that decide train and val."""
    file_of: dict[str, str] = field(default_factory=dict)
    """Split → annotation file."""


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
    reader = CocoReader(root, classes=config.classes, class_of=config.class_of)
    named = {"train": config.train, "val": config.val, "test": config.test if with_test else None}
    files = {part: reader.read(name, annotated=part != "test") for part, name in named.items() if name is not None}
    reader.check_mapping(list(files.values()))
    parts = {part: file.images for part, file in files.items()}
    digests = [files[part].digest for part in ("train", "val") if part in files]
    _check_classes(files, config.classes, reader.findings)
    return Source(root, parts, reader.findings, digests, {part: file.name for part, file in files.items()})


def _check_classes(files: dict[str, AnnotationFile], classes: list[str], findings: list[Finding]) -> None:
    for part in ("train", "val"):
        if part not in files or not files[part].images:
            continue
        present = {annotation.class_index for record in files[part].images for annotation in record.annotations}
        for index, name in enumerate(classes):
            if index > 0 and index not in present:
                file = files[part].name
                findings.append(Finding("absent-class", file, f"{file}: no {name} in {part} [absent-class]"))


def check_files(source: Source) -> list[Finding]:
    """Findings that the head of each image file tells: missing, size, orientation, mode; same bytes in two splits."""
    findings = []
    sizes: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for part, records in source.parts.items():
        for record in records:
            path = source.root / record.file_name
            findings += [
                Finding(code, record.file_name, f"{text} [{code}]", image=record.file_name)
                for code, text in _check_header(path, record)
            ]
            if path.is_file():
                sizes[path.stat().st_size].append((part, record.file_name))
    return [*findings, *_find_same_images(source.root, sizes.values())]


def _check_header(path: Path, record: ImageRecord) -> Iterable[tuple[str, str]]:
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


def _find_same_images(root: Path, groups: Iterable[list[tuple[str, str]]]) -> Iterable[Finding]:
    """Images of one size in bytes that lie in two splits are compared by their content."""
    for group in groups:
        if len({part for part, _ in group}) < 2:
            continue
        first: dict[bytes, tuple[str, str]] = {}
        for part, name in group:
            digest = hashlib.sha256((root / name).read_bytes()).digest()
            other_part, other = first.setdefault(digest, (part, name))
            if other_part != part:
                text = f"{name} in {part} is the same image as {other} in {other_part} [same-image]"
                yield Finding("same-image", name, text, image=name)


def fingerprint(source: Source) -> str:
    """16 hex digits of the annotation files and of the images' names and sizes in bytes, wherever they lie."""
    digest = hashlib.sha256("\n".join(source.digests).encode())
    for part in ("train", "val"):
        for record in source.parts[part]:
            digest.update(f"\n{record.file_name}\t{os.stat(source.root / record.file_name).st_size}".encode())
    return digest.hexdigest()[:16]
