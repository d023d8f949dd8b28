"""Predictions of files of one's own, scored against an annotation file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.predict.conftest import Predict, make_run, random_image
from trash_seg.compose import compose_config

WIDTH, HEIGHT = 64, 48
CATEGORIES = compose_config([]).data.classes[1:]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """An annotation file of one photograph, drawn on the file as it is stored, which EXIF would turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    random_image(tmp_path / "photos" / "a.jpg", WIDTH, HEIGHT, exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "photos/a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "Paper"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 60, 0, 60, 20]], "bbox": [0, 0, 60, 20]}
        ],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    return path


def counts_of(path: Path) -> np.ndarray:
    with np.load(path) as stored:
        return stored["counts"]


@pytest.mark.parametrize("window", [(), ("--window", 32)])
def test_images_of_a_folder_are_scored_as_their_annotations_see_them(
    toy_run: Path, truth: Path, tmp_path: Path, predict: Predict, window: tuple[object, ...]
) -> None:
    ways = {"folder": ("--data", tmp_path / "photos", "--truth", truth), "truth": ("--truth", truth)}
    for name, given in ways.items():
        completed = predict(toy_run, *given, *window, "--confusion", tmp_path / f"{name}.npz")
        assert completed.code == 0, completed.output
        assert "(pooled)" in completed.output
    counts = counts_of(tmp_path / "folder.npz")
    assert counts.shape == (1, 12, 12)
    assert counts.sum() == (WIDTH * HEIGHT if window else 32 * 32)
    np.testing.assert_array_equal(counts, counts_of(tmp_path / "truth.npz"))


def test_results_carry_the_ids_of_the_truth(toy_run: Path, truth: Path, tmp_path: Path, predict: Predict) -> None:
    content = json.loads(truth.read_text())
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = 4711
    content["categories"] = [{"id": 100 + i, "name": name} for i, name in enumerate(CATEGORIES)]
    content["annotations"][0] |= {"category_id": 101, "area": 600, "iscrowd": 0}
    truth.write_text(json.dumps(content))
    other = {"images": [{**content["images"][0], "id": 1}]}
    (tmp_path / "test.json").write_text(json.dumps(other))
    for number, data in enumerate((tmp_path / "photos", tmp_path / "test.json")):
        path = tmp_path / f"{number}.json"
        completed = predict(toy_run, "--data", data, "--truth", truth, "--coco", path)
        assert completed.code == 0, completed.output
        known = COCO(truth)
        results = known.loadRes(str(path))
        assert {entry["image_id"] for entry in results.anns.values()} == {4711}
        assert {entry["category_id"] for entry in results.anns.values()} <= set(known.getCatIds())


def test_a_class_of_several_categories_is_named(truth: Path, tmp_path: Path, predict: Predict) -> None:
    run = make_run(tmp_path / "runs", "+data.class_of.Carton=Paper", "+data.class_of.Can=Metal")
    content = json.loads(truth.read_text())
    names = ["Carton", *CATEGORIES, "Can"]
    content["categories"] = [{"id": 100 + i, "name": name} for i, name in enumerate(names)]
    content["annotations"][0]["category_id"] = 100
    truth.write_text(json.dumps(content))
    completed = predict(run, "--truth", truth, "--coco", tmp_path / "c.json")
    assert completed.code == 0, completed.output
    note = "--coco: 2 classes (Paper, Metal) stand for several categories each; the id of the first one is written"
    assert note in completed.output
    written = {entry["category_id"] for entry in json.loads((tmp_path / "c.json").read_text())}
    assert written and not written & {100 + names.index("Paper"), 100 + names.index("Can")}


def test_a_copy_of_another_size_is_named(toy_run: Path, truth: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "small" / "photos").mkdir(parents=True)
    random_image(tmp_path / "small" / "photos" / "a.jpg", WIDTH // 2, HEIGHT // 2)
    completed = predict(toy_run, "--data", tmp_path / "small", "--truth", truth)
    assert completed.code == 1
    assert "a.jpg: is 32×24, its annotations are for 64×48" in completed.output


def test_a_truth_of_other_images_is_refused(toy_run: Path, truth: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "b.jpg", WIDTH, HEIGHT)
    completed = predict(toy_run, "--data", tmp_path / "b.jpg", "--truth", truth)
    assert completed.code == 2
    assert "has none of the 1 images, by their names (b.jpg is none of photos/a.jpg …)" in completed.output
