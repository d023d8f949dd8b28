"""What is to be predicted: images of an annotation file, of a folder, of a run's own dataset, or single files."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trash_seg.config import Config
from trash_seg.data.coco import CocoReader, ImageRecord
from trash_seg.data.findings import Finding, raise_errors
from trash_seg.data.image import image_suffixes
from trash_seg.data.source import read_source
from trash_seg.errors import ConfigError, UserError

IMAGE_CODES = ("missing-file", "not-json", "not-coco", "empty-split", "unsafe-path", "duplicate-file-name")
"""Findings that matter where an annotation file only names images."""


@dataclass(frozen=True)
class Item:
    """One image to be predicted."""

    name: str
    """As the annotation file names it, or relative to the folder."""
    path: Path
    record: ImageRecord | None = None
    """Its entry in an annotation file: the size, and with `Inputs.has_truth` the annotations."""
    output: str = ""
    """Name of the files written for it, without suffix; `with_outputs` gives it."""


@dataclass(frozen=True)
class Inputs:
    """Everything to be predicted, in order."""

    items: list[Item]
    has_truth: bool = False
    annotation_path: Path | None = None
    """The file that they have ids in: of the truth, where one is given."""
    file_names: dict[str, str] = field(default_factory=dict)
    """By name: what that file calls them, where it is something else."""
    notes: list[str] = field(default_factory=list)
    """What was skipped."""


def read_inputs(data: Sequence[Path], *, images_dir: Path | None, config: Config) -> Inputs:
    """Images by `--data`.

    Args:
        data: One COCO file (.json), or folders and image files.
        images_dir: What the file names in the COCO file are relative to; None: its folder.
        config: A run's, for class names.

    Raises:
        UserError: Nothing there, or nothing in it.
    """
    if any(path.suffix == ".json" for path in data):
        if len(data) > 1:
            raise UserError(f"--data {data[0]} …: a COCO file stands alone")
        return read_annotations(data[0], images_dir=images_dir, config=config, has_truth=False)
    items: list[Item] = []
    notes: list[str] = []
    for path in data:
        if path.is_dir():
            found, skipped = _list_folder(path)
            if not found:
                raise UserError(f"--data {path}: no image in this folder ({skipped} other files)")
            items += found
            notes += [f"{path}: {skipped} files that are no images are left out"] if skipped else []
        elif path.exists():
            items.append(Item(path.name, path))
        else:
            raise UserError(f"--data {path}: is not there")
    return Inputs(with_outputs(items), notes=notes)


def read_annotations(path: Path, *, images_dir: Path | None, config: Config, has_truth: bool) -> Inputs:
    """Images of a COCO file.

    Args:
        path: The file.
        images_dir: What its file names are relative to; None: its folder.
        config: A run's, for the class of each category.
        has_truth: Its annotations are wanted too, and checked.

    Raises:
        UserError: It cannot be used; the message says where.
    """
    root = path.parent if images_dir is None else images_dir
    reader = CocoReader(path.parent, classes=config.data.classes, class_of=config.data.class_of)
    file = reader.read(path.name, annotated=has_truth)
    raise_errors(f for f in reader.findings if has_truth or f.code in IMAGE_CODES)
    return Inputs(_items(file.images, root), has_truth, path)


def read_split(config: Config, split: str, *, data_root: Path | None) -> Inputs:
    """Images of the dataset that a run was trained on, read by the trainer's own code.

    Args:
        config: The run's.
        split: val or test.
        data_root: Where the dataset lies now, if it has moved.

    Raises:
        UserError: It is not there, or has no such split.
    """
    data = config.data if data_root is None else replace(config.data, root=str(data_root))
    try:
        source = read_source(data, cache_dir=Path(config.runtime.cache_dir).expanduser(), with_test=split == "test")
    except OSError as error:
        raise ConfigError(f"runtime.cache_dir={config.runtime.cache_dir}: {error.strerror}") from error
    findings: Iterable[Finding] = source.findings
    if any(finding.code == "missing-file" for finding in findings) and data_root is None:
        raise UserError(f"data.root={data.root}: the run's dataset is not there any more; give --data-root DIR")
    raise_errors(findings)
    if split not in source.parts:
        raise UserError(f"--split {split}: the run's dataset (data={data.name}) has no such split")
    part = source.parts[split]
    named = data.annotations if data.annotations is not None else getattr(data, split)
    path = None if data.format == "folder" else source.root / named
    return Inputs(_items(part.records, source.root), split != "test" or data.annotations is not None, path)


def with_outputs(items: Sequence[Item]) -> list[Item]:
    """Gives each item the name of its files: its own without suffix, or with it where two would be the same."""
    names = Counter(item.name for item in items)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise UserError(f"--data: two images are called {twice[0]}; predict them one after the other")
    stems = Counter(str(Path(item.name).with_suffix("")) for item in items)
    outputs = (str(Path(item.name).with_suffix("")) for item in items)
    return [
        replace(item, output=output if stems[output] == 1 else item.name)
        for item, output in zip(items, outputs, strict=True)
    ]


@dataclass(frozen=True)
class CocoIds:
    """The ids of a results file."""

    image_ids: dict[str, int | str]
    """By name."""
    category_ids: list[int | str | None]
    """By class; None: the annotation file has no category for it."""
    note: str = ""
    """What its reader should know."""


def read_coco_ids(inputs: Inputs, config: Config) -> CocoIds:
    """The ids of an annotation file.

    A class that several categories are mapped to takes the first. An image that the file lacks has its name as its id,
    and where there are no categories, a class's is its index.
    """
    classes = config.data.classes
    path = inputs.annotation_path
    image_ids: dict[str, int | str] = {item.name: item.name for item in inputs.items}
    categories: list[dict[str, Any]] = []
    if path is not None:
        content = json.loads(path.read_bytes())
        ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
        image_ids = {name: ids.get(inputs.file_names.get(name, name), name) for name in image_ids}
        categories = content.get("categories") or []
    if not categories:
        return CocoIds(image_ids, list(range(len(classes))), "--coco: no categories are given; ids are class indices")
    category_ids: dict[str, list[int | str]] = {name: [] for name in classes}
    for entry in categories:
        name = config.data.class_of.get(entry["name"], entry["name"])
        if name in category_ids:
            category_ids[name].append(entry["id"])
    notes = []
    if unnamed := [name for name in classes[1:] if not category_ids[name]]:
        notes.append(f"--coco: {path} has no category for {', '.join(unnamed)}; left out")
    if shared := [name for name in classes[1:] if len(category_ids[name]) > 1]:
        number = f"{len(shared)} class{'es' if len(shared) > 1 else ''} ({', '.join(shared)})"
        stand = "stand for several categories each" if len(shared) > 1 else "stands for several categories"
        notes.append(f"--coco: {number} {stand}; the id of the first one is written")
    return CocoIds(image_ids, [next(iter(category_ids[name]), None) for name in classes], "\n".join(notes))


def _items(records: Sequence[ImageRecord], root: Path) -> list[Item]:
    return with_outputs([Item(record.file_name, root / record.file_name, record) for record in records])


def _list_folder(folder: Path) -> tuple[list[Item], int]:
    """Images under a folder by their suffix, sorted by name, and the number of other and hidden files."""
    suffixes = image_suffixes()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return [Item(path.relative_to(folder).as_posix(), path) for path in images], len(files) - len(images)
