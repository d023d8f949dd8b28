"""A dataset that breaks every rule that one dataset can break at once, each once."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = ["UNKNOWN", "General trash", "Paper", "Paper pack", "Metal", "Glass", "Plastic", "Styrofoam",
              "Plastic bag", "Battery", "Clothing"]  # fmt: skip
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def categories() -> list[dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)]


class Coco:
    """Builds an annotation file and its images."""

    def __init__(self, root: Path, name: str, *, seed: int) -> None:
        self.root, self.name = root, name
        self.rng = np.random.default_rng(seed)
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories()}

    def picture(self, width: int = 64, height: int = 48) -> Image.Image:
        """Blurred noise: every picture looks different."""
        noise = self.rng.integers(0, 256, (6, 8, 3), np.uint8)
        return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)

    def image(self, file_name: str, picture: Image.Image | None = None, *, entry: dict[str, Any] | None = None,
              annotate: bool = True, **save: Any) -> int:  # fmt: skip
        """Adds an image with one good annotation. Returns its id."""
        id_ = len(self.content["images"])
        picture = picture or self.picture()
        (self.root / file_name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(self.root / file_name, **save)
        self.content["images"].append({"id": id_, "file_name": file_name, "width": 64, "height": 48, **(entry or {})})
        if annotate:
            self.annotation(id_)
        return id_

    def annotation(self, image_id: int, segmentation: Any = None, **entry: Any) -> dict[str, Any]:
        """Adds an annotation, good by default; classes take turns so that all occur."""
        number = len(self.content["annotations"])
        added = {
            "id": number, "image_id": image_id, "category_id": number % len(CATEGORIES), "iscrowd": 0,
            "segmentation": [SQUARE] if segmentation is None else segmentation, **entry,
        }  # fmt: skip
        self.content["annotations"].append(added)
        return added

    def write(self) -> None:
        (self.root / self.name).write_text(json.dumps(self.content))


def clean(root: Path, *, num_images: int = 11) -> tuple[Coco, Coco]:
    """A dataset in the competition's layout with nothing wrong; not yet written."""
    train, val = Coco(root, "train.json", seed=0), Coco(root, "val.json", seed=1)
    for coco, part in ((train, "train"), (val, "val")):
        for index in range(num_images):
            coco.image(f"images/{part}_{index:02}.png")
    test = Coco(root, "test.json", seed=2)
    test.image("images/test_00.png", annotate=False)
    del test.content["categories"]  # a test split needs none
    test.write()
    return train, val


def breaks_images(root: Path, train: Coco, val: Coco) -> dict[str, str]:
    """One image for each rule on image files and entries. Returns code → file name."""
    images = root / "images"
    train.image("images/gone.png")
    (images / "gone.png").unlink()
    train.image("images/cut.jpg", train.picture(64, 48))
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-400])
    train.image("images/size.png", train.picture(60, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    train.image("images/turned.jpg", train.picture(48, 64), exif=exif)
    train.image("images/grey.png", train.picture().convert("L"))
    escaping = train.image("images/escape.png")
    train.content["images"][escaping]["file_name"] = "../escape.png"
    train.image("images/twice.png")
    train.content["images"].append({**train.content["images"][-1], "id": 900})
    train.annotation(900)
    train.image("images/id.png")
    train.image("images/same_id.png", annotate=False)
    train.content["images"][-1]["id"] = train.content["images"][-2]["id"]
    train.annotation(train.content["images"][-1]["id"])
    train.image("images/empty.png", annotate=False)
    same = val.image("images/same.png")
    assert same
    shutil.copy(images / "train_00.png", images / "same.png")
    with Image.open(images / "train_01.png") as picture:
        val.image("images/near.jpg", picture.convert("RGB"), quality=70)
    return {
        "missing-image": "gone.png", "broken-image": "cut.jpg", "size-mismatch": "size.png",
        "exif-orientation": "turned.jpg", "image-mode": "grey.png", "unsafe-path": "../escape.png",
        "duplicate-file-name": "twice.png", "duplicate-image-id": "same_id.png", "no-annotations": "empty.png",
        "same-image": "same.png", "near-duplicate": "near.jpg",
    }  # fmt: skip


def breaks_annotations(train: Coco, val: Coco) -> dict[str, Any]:
    """One annotation for each rule. Returns code → id, None where the finding is of the whole file."""
    square = [SQUARE]
    bad = {
        "unknown-image": train.annotation(4711),
        "unknown-category": train.annotation(0, category_id=99),
        "short-polygon": train.annotation(0, [*square, [1, 1, 5, 5]]),
        "odd-polygon": train.annotation(0, [*square, [1, 1, 5, 5, 9, 9, 3]]),
        "zero-area": train.annotation(0, [[1, 1, 5, 5, 9, 9]]),
        "outside-image": train.annotation(0, [[10, 10, 70, 10, 70, 30]]),
        "absurd-coordinates": train.annotation(0, [[10, 10, 1e300, 10, 30, 30]]),
        "bad-segmentation": train.annotation(0, "polygon"),
        "rle-size": train.annotation(0, {"size": [64, 48], "counts": [0, 3072]}),
        "crowd": train.annotation(0, {"size": [48, 64], "counts": [0, 3072]}, iscrowd=1),
        "bbox-mismatch": train.annotation(0, bbox=[1, 1, 5, 5]),
        "area-mismatch": train.annotation(0, area=3.0),
    }
    twice = train.annotation(0)
    twice["id"] = 0
    ids = {code: entry["id"] for code, entry in bad.items()}
    train.content["categories"].append({"id": 50, "name": "Gold"})  # no class takes it, and val does not have it
    val.content["annotations"][9]["category_id"] = 0  # was the only Battery
    return {**ids, "duplicate-annotation-id": 0, "unmapped-category": None, "category-mismatch": None,
            "absent-class": None}  # fmt: skip
