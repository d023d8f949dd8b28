"""What can be wrong with a dataset: one table of rules for the doctor and the trainer. Standard library only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trash_seg.errors import DataError

NUM_SHOWN = 5
"""Errors that one message names; the doctor lists all."""


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong."""

    error: bool
    """An error stops training; a warning is counted."""
    title: str
    action: str
    """What the trainer does about it."""


RULES: dict[str, Rule] = {
    # annotation files
    "missing-file": Rule(True, "annotation file or folder is not there", "refuses the dataset"),
    "missing-test": Rule(False, "the test split is not there", "trains without it; prediction would need it"),
    "not-json": Rule(True, "annotation file is not JSON, or cut short", "refuses the dataset"),
    "not-coco": Rule(True, "annotation file is not COCO", "refuses the dataset"),
    "empty-split": Rule(True, "split has no images", "refuses the dataset"),
    "no-labels": Rule(True, "no annotation of a file can be used", "refuses the dataset"),
    "unmapped-category": Rule(True, "category that no class takes", "refuses the dataset"),
    "unused-mapping": Rule(False, "data.class_of names a category that no file has", "ignores the entry"),
    "category-mismatch": Rule(False, "category names differ between splits", "goes by the names, not the ids"),
    "absent-class": Rule(False, "class does not occur in a split", "trains; its IoU may be empty"),
    # image entries and files
    "duplicate-image-id": Rule(True, "image id stands twice", "refuses the dataset"),
    "duplicate-file-name": Rule(True, "file name stands twice in a split", "refuses the dataset"),
    "unsafe-path": Rule(True, "file name leaves the data folder", "refuses the dataset, opens nothing there"),
    "missing-image": Rule(True, "image is not there", "refuses the dataset"),
    "broken-image": Rule(True, "image does not decode, or is cut short", "refuses the dataset"),
    "size-mismatch": Rule(True, "image size differs from that of its annotations", "refuses the dataset"),
    "exif-orientation": Rule(
        False, "image is turned by its EXIF orientation", "takes the orientation under which the sizes agree"
    ),
    "image-mode": Rule(
        False,
        "image is not 8-bit RGB",
        "converts it: grey repeated, palette looked up, alpha dropped, CMYK by Pillow, of 16 bit the high byte",
    ),
    "no-annotations": Rule(False, "image without annotations", "keeps it as background"),
    "same-image": Rule(False, "same image, byte for byte, in two splits", "keeps both: scores on it are too good"),
    "near-duplicate": Rule(False, "images in two splits look alike", "keeps both: scores on them may be too good"),
    # annotations
    "duplicate-annotation-id": Rule(False, "annotation id stands twice", "draws both"),
    "unknown-image": Rule(False, "annotation of an unknown image", "leaves it out"),
    "unknown-category": Rule(True, "annotation of a category that the file does not list", "refuses the dataset"),
    "bad-segmentation": Rule(True, "segmentation is neither polygons nor RLE", "refuses the dataset"),
    "absurd-coordinates": Rule(True, "coordinates are not finite, or far outside the image", "refuses the dataset"),
    "odd-polygon": Rule(True, "polygon with an odd number of coordinates", "refuses the dataset"),
    "short-polygon": Rule(False, "polygon with fewer than 3 points", "leaves the polygon out"),
    "zero-area": Rule(False, "annotation without area", "leaves it out"),
    "outside-image": Rule(False, "coordinates more than 1 px outside the image", "clips them to the image"),
    "rle-size": Rule(True, "RLE of another size than the image", "refuses the dataset"),
    "crowd": Rule(False, "crowd region", "draws it like any other annotation"),
    "bbox-mismatch": Rule(False, "bbox contradicts the segmentation", "goes by the segmentation"),
    "area-mismatch": Rule(False, "area contradicts the segmentation", "goes by the segmentation"),
    # index masks (data.format=folder)
    "missing-mask": Rule(True, "image without a mask", "refuses the dataset"),
    "broken-mask": Rule(True, "mask is no 8-bit single-channel image, or does not decode", "refuses the dataset"),
    "unknown-index": Rule(True, "mask holds an index that no class has", "refuses the dataset"),
    "other-file": Rule(False, "file or folder among the images that is not read", "passes it over"),
    "unused-mask": Rule(False, "mask without an image", "passes it over"),
}
"""Stable code → rule. Codes stand in check.json and status.json."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of one file."""

    code: str
    file: str
    """The annotation file or image that it is in, relative to data.root."""
    message: str
    """File, id and value, in one line."""
    image: str | None = None
    """File name of the image concerned."""
    annotation: int | str | None = None
    """Id of the annotation concerned."""
    other: str | None = None
    """File name of the second image, where two are concerned."""
    region: Any = None
    """The annotation as the file has it, for a picture."""

    @property
    def rule(self) -> Rule:
        """What it breaks."""
        return RULES[self.code]


def raise_errors(findings: Iterable[Finding]) -> None:
    """Stops at errors.

    Raises:
        DataError: There are errors; the message names the first few and how to see all.
    """
    errors = [finding for finding in findings if finding.rule.error]
    if not errors:
        return
    lines = [finding.message for finding in errors[:NUM_SHOWN]]
    if len(errors) > NUM_SHOWN:
        lines.append(f"… and {len(errors) - NUM_SHOWN} errors more")
    raise DataError("\n".join(lines))


def count_warnings(findings: Iterable[Finding]) -> dict[str, int]:
    """Code → number, of the warnings."""
    return dict(sorted(Counter(finding.code for finding in findings if not finding.rule.error).items()))
