"""Reads COCO annotation files and finds what is wrong with them. Opens no image."""

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from trash_seg.data.findings import Finding
from trash_seg.data.geometry import check_segmentation


@dataclass(frozen=True, slots=True)
class Annotation:
    """One drawn region."""

    id: int | str | None
    class_index: int
    segmentation: Any
    """Polygons as lists [x0, y0, x1, y1, …] in px, or an RLE {"size": [h, w], "counts": list or str}; checked."""


@dataclass(slots=True)
class ImageRecord:
    """One image of an annotation file."""

    file_name: str
    """Relative to the data folder."""
    width: int
    height: int
    annotations: list[Annotation] = field(default_factory=list)
    mask_name: str | None = None
    """Index mask that takes the place of annotations (data.format=folder)."""


@dataclass
class AnnotationFile:
    """What an annotation file holds, as far as it can be used."""

    name: str
    """As the config names it."""
    images: list[ImageRecord] = field(default_factory=list)
    categories: dict[Hashable, str] = field(default_factory=dict)
    """Id → name."""
    digest: str = ""
    """Of its bytes."""


class CocoReader:
    """Reads files of one dataset; gathers findings instead of stopping at the first.

    Args:
        root: The data folder.
        classes: Names by class index.
        class_of: Category → class name, where they differ; None leaves the category out.
    """

    def __init__(self, root: Path, *, classes: Sequence[str], class_of: Mapping[str, str | None]) -> None:
        self.root, self.class_of = root, class_of
        self.index_of = {name: index for index, name in enumerate(classes)}
        self.findings: list[Finding] = []

    def read(self, name: str, *, annotated: bool = True) -> AnnotationFile:
        """Reads one file; problems are appended to `findings`.

        Args:
            name: Path of the file, relative to the data folder.
            annotated: False for a test split: annotations may be absent.
        """
        result = AnnotationFile(name)
        content = self._load(result)
        if content is None:
            return result
        missing = [key for key in ("images", "categories", "annotations") if not isinstance(content.get(key), list)]
        if missing and (annotated or "images" in missing):
            self._add("not-coco", result, f"not COCO: no list under {', '.join(missing)}")
            return result
        by_id = self._read_images(content["images"], result)
        class_indices = self._read_categories(content.get("categories") or [], result)
        self._read_annotations(content.get("annotations") or [], result, by_id, class_indices)
        if not result.images:
            self._add("empty-split", result, "lists no images")
        elif annotated:
            for record in by_id.values():
                if not record.annotations:
                    self._add("no-annotations", result, f"{record.file_name} has none", image=record.file_name)
        return result

    def check_mapping(self, files: Sequence[AnnotationFile]) -> None:
        """Finds what is wrong between files: category names, and entries of class_of that no file has."""
        named = [file for file in files if file.categories]
        for file in named[1:]:
            ours, first = file.categories, named[0].categories
            differing = sorted(str(id_) for id_ in ours.keys() | first.keys() if ours.get(id_) != first.get(id_))
            if differing:
                self._add("category-mismatch", file, f"category ids {', '.join(differing)} differ from {named[0].name}")
        known = {name for file in named for name in file.categories.values()}
        for name in self.class_of:
            if named and name not in known:
                self._add("unused-mapping", named[0], f"data.class_of.{name}: no such category")

    def _add(self, code: str, file: AnnotationFile, text: str, **about: Any) -> None:
        self.findings.append(Finding(code, file.name, f"{file.name}: {text} [{code}]", **about))

    def _load(self, file: AnnotationFile) -> dict[str, Any] | None:
        try:
            content = (self.root / file.name).read_bytes()
        except OSError as error:
            self._add(
                "missing-file",
                file,
                f"{self.root / file.name} cannot be read ({error.strerror}); data.root is its folder",
            )
            return None
        file.digest = hashlib.sha256(content).hexdigest()
        gc_was_on = gc.isenabled()
        gc.disable()  # millions of small lists would each be looked at again and again
        try:
            loaded = json.loads(content)
        except (ValueError, RecursionError) as error:
            self._add("not-json", file, f"not JSON, or cut short: {error}")
            return None
        finally:
            if gc_was_on:
                gc.enable()
        if not isinstance(loaded, dict):
            self._add("not-coco", file, f"not COCO: a {type(loaded).__name__} instead of an object")
            return None
        return loaded

    def _read_images(self, entries: list[Any], file: AnnotationFile) -> dict[Hashable, ImageRecord]:
        by_id: dict[Hashable, ImageRecord] = {}
        names: Counter[str] = Counter()
        for position, entry in enumerate(entries):
            if not _is_image(entry):
                self._add("not-coco", file, f"images[{position}] lacks id, file_name, width or height: {entry!r:.100}")
                continue
            record = ImageRecord(entry["file_name"], entry["width"], entry["height"])
            names[record.file_name] += 1
            if leaves_folder(record.file_name):
                text = f"file name {record.file_name!r} leaves the data folder"
                self._add("unsafe-path", file, text, image=record.file_name)
            elif names[record.file_name] == 2:
                text = f"{record.file_name} stands twice or more"
                self._add("duplicate-file-name", file, text, image=record.file_name)
            if entry["id"] in by_id:
                text = f"image id {entry['id']} stands twice, last for {record.file_name}"
                self._add("duplicate-image-id", file, text, image=record.file_name)
            by_id[entry["id"]] = record
            file.images.append(record)
        return by_id

    def _read_categories(self, entries: list[Any], file: AnnotationFile) -> dict[Hashable, int | None]:
        """Category id → class index, None for left out."""
        indices: dict[Hashable, int | None] = {}
        for position, entry in enumerate(entries):
            named = isinstance(entry, dict) and isinstance(entry.get("name"), str) and _is_id(entry.get("id"))
            if not named or entry["id"] in indices:
                problem = "has an id that stands twice" if named else "lacks id or name"
                self._add("not-coco", file, f"categories[{position}] {problem}: {entry!r:.100}")
                continue
            name = entry["name"]
            file.categories[entry["id"]] = name
            class_name = self.class_of.get(name, name)
            indices[entry["id"]] = None if class_name is None else self.index_of.get(class_name)
            if class_name is not None and class_name not in self.index_of:
                way_out = "'+data.class_of={CATEGORY: CLASS}', or data.class_of in a data file of your own"
                text = f"category {name!r} has no class; give it one, or null to leave it out: {way_out}"
                self._add("unmapped-category", file, text)
        return indices

    def _read_annotations(
        self, entries: list[Any], file: AnnotationFile,
        by_id: dict[Hashable, ImageRecord], class_indices: dict[Hashable, int | None],
    ) -> None:  # fmt: skip
        seen: set[Hashable] = set()
        for position, entry in enumerate(entries):
            if not (isinstance(entry, dict) and _is_id(entry.get("image_id")) and _is_id(entry.get("category_id"))):
                self._add("not-coco", file, f"annotations[{position}] lacks image_id or category_id: {entry!r:.100}")
                continue
            id_ = entry.get("id") if _is_id(entry.get("id")) else None
            if id_ is not None and id_ in seen:
                self._add("duplicate-annotation-id", file, f"annotation id {id_} stands twice", annotation=id_)
            seen.add(id_)
            record = by_id.get(entry["image_id"])
            if record is None:
                text = f"annotation {id_} is of image {entry['image_id']!r}, which is not listed"
                text += _kind_hint(entry["image_id"], by_id)
                self._add("unknown-image", file, text, annotation=id_)
                continue
            usable, problems = check_segmentation(entry, width=record.width, height=record.height)
            if entry["category_id"] not in class_indices:
                text = f"category {entry['category_id']!r} is not listed"
                text += _kind_hint(entry["category_id"], class_indices)
                problems = [*problems, ("unknown-category", text)]
            for code, text in problems:
                where = f"annotation {id_} on {record.file_name}"
                self._add(code, file, f"{where}: {text}", image=record.file_name, annotation=id_, region=entry)
            index = class_indices.get(entry["category_id"])
            if usable is not None and index is not None:
                record.annotations.append(Annotation(id_, index, usable))


def leaves_folder(file_name: str) -> bool:
    """Whether a name from an annotation file points outside the data folder, on any system."""
    path = PureWindowsPath(file_name)  # knows both separators, and drive letters
    return not file_name or bool(path.anchor) or ".." in path.parts or "\0" in file_name


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _kind_hint(id_: int | str, listed: Container[Hashable]) -> str:
    """Why an id is not listed, where a number's string or a string's number is."""
    other = str(id_) if isinstance(id_, int) else int(id_) if id_.isdecimal() else None
    return ": ids are numbers in one place and strings in the other" if other in listed else ""


def _is_image(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not _is_id(entry.get("id")):
        return False
    sizes = (entry.get("width"), entry.get("height"))
    return all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**16 for size in sizes)
