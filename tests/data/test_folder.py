import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trash_seg.check
from tests.data.test_check import FOLDER_RULES
from trash_seg.compose import compose_config
from trash_seg.data.dataset import Dataset, open_dataset
from trash_seg.errors import DataError

CLASSES = "data.classes=[background,sky,grass]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, number in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
        for index in range(number):
            folder = tmp_path / "data" / part
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "images" / f"{index}.jpg")
            mask = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 10)[:, None].repeat(40, axis=1))
            if index == 1:  # a palette's indices count, not its colours
                mask = mask.convert("P")
                mask.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + [0] * 759)
            mask.save(folder / "masks" / f"{index}.png")
    return tmp_path / "data"


def open_folder(root: Path, *overrides: str) -> Dataset:
    config = compose_config(["data=folder", CLASSES, f"data.root={root}", f"runtime.cache_dir={root}", *overrides])
    return open_dataset(config.data, image_size=30, runtime=config.runtime)


@pytest.mark.parametrize("cache", [True, False])
def test_samples(root: Path, cache: bool) -> None:
    dataset = open_folder(root, f"runtime.cache={str(cache).lower()}")
    assert dataset.val.names == ["val/images/0.jpg", "val/images/1.jpg", "val/images/2.jpg"]
    for index in range(6):
        assert np.array_equal(dataset.train.masks[index][:, 0], np.repeat([0, 1, 2], 10))
    assert dataset.pixels.tolist() == [6 * 300] * 3


def test_masks_that_show_no_class_stop_training(root: Path, tmp_path: Path) -> None:
    for path in (root / "val" / "masks").iterdir():
        Image.fromarray(np.repeat(np.array([0, 1, 0], np.uint8), 10)[:, None].repeat(40, axis=1)).save(path)
    assert open_folder(root).warnings == {"absent-class": 1}
    for path in (root / "train" / "masks").iterdir():
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    with pytest.raises(DataError, match="the masks of train are background alone"):
        open_folder(root)
    code = trash_seg.check.check(["data=folder", CLASSES, f"data.root={root}"], out=tmp_path, read_images=True)
    counts = json.loads((tmp_path / "check.json").read_text())["counts"]
    assert (code, counts["no-labels"], counts["absent-class"]) == (1, 1, 1)


def test_one_folder_in_folds(root: Path) -> None:
    settings = ("data.train=null", "data.val=null", "data.annotations=train", "data.num_folds=3")
    names = [name for fold in range(3) for name in open_folder(root, *settings, f"data.fold={fold}").val.names]
    assert sorted(names) == [f"train/images/{index}.jpg" for index in range(6)]


def test_the_doctor_knows_masks(root: Path, tmp_path: Path) -> None:
    def check() -> tuple[int, dict[str, int]]:
        overrides = ["data=folder", CLASSES, f"data.root={root}"]
        code = trash_seg.check.check(overrides, out=tmp_path, read_images=True)
        return code, json.loads((tmp_path / "check.json").read_text())["counts"]

    assert check() == (0, {})
    masks = root / "train" / "masks"
    (masks / "0.png").unlink()
    Image.fromarray(np.full((30, 40), 3, np.uint8)).save(masks / "2.png")
    (masks / "3.png").write_bytes(b"no mask")
    (masks / "9.png").write_bytes(b"of no image")
    (root / "train" / "images" / "5.heic").write_bytes(b"")
    for path in (root / "val" / "masks").iterdir():
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    code, counts = check()
    assert code == 1
    assert counts == {**dict.fromkeys(FOLDER_RULES, 1), "no-labels": 1}


@pytest.mark.parametrize(
    ("overrides", "code", "counts"), [((), 1, {"broken-mask": 1}), (("data.val=null",), 1, {"missing-file": 1})]
)
def test_the_doctor_reports_what_it_cannot_examine(
    root: Path, tmp_path: Path, overrides: tuple[str, ...], code: int, counts: dict[str, int]
) -> None:
    """A mask in colours, or no validation split at all."""
    if not overrides:
        Image.fromarray(np.full((30, 40, 3), 1, np.uint8)).save(root / "train" / "masks" / "2.png")
    given = ["data=folder", CLASSES, f"data.root={root}", *overrides]
    assert trash_seg.check.check(given, out=tmp_path, read_images=True) == code
    assert json.loads((tmp_path / "check.json").read_text())["counts"] == counts
    assert (tmp_path / "check.html").exists()


def test_an_index_without_a_class_stops_training(root: Path) -> None:
    Image.fromarray(np.full((30, 40), 200, np.uint8)).save(root / "train" / "masks" / "4.png")
    with pytest.raises(DataError, match=r"masks/4\.png: holds index 200, data\.classes has 0 to 2"):
        open_folder(root)


def test_a_name_that_is_no_utf_8_is_a_name(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, suffix in (("images", b".jpg"), ("masks", b".png")):
        folder = root / "train" / kind
        (folder / f"0{suffix.decode()}").rename(folder / os.fsdecode(b"caf\xe9" + suffix))
    assert os.fsdecode(b"train/images/caf\xe9.jpg") in open_folder(root).train.names
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check", "data=folder", CLASSES, f"data.root={root}", "--out", "check"])
    assert trash_seg.check.main() == 0
    assert r"caf\udce9.jpg" in Path("check/check.html").read_text(encoding="utf-8")
