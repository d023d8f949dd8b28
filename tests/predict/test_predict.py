"""`python -m trash_seg.predict`: what comes out."""

import csv
import json
import shutil
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.conftest import TRASH190, needs_trash190, run_module
from tests.predict.conftest import Predict, make_run, random_image
from trash_seg.data.image import read_image


def rows_of(path: Path) -> list[list[str]]:
    csv.field_size_limit(10**6)
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_predicting_the_validation_set_gives_the_recorded_counts(
    finished_run: Path, tmp_path: Path, predict: Predict
) -> None:
    moved = tmp_path / "copied elsewhere"  # without checkpoints, log or .hydra
    moved.mkdir()
    for name in ("status.json", "best.safetensors"):
        shutil.copy(finished_run / name, moved / name)
    confusion, scores = tmp_path / "confusion.npz", tmp_path / "scores.json"
    outputs = ("--confusion", confusion, "--scores", scores)
    completed = predict(moved, "--split", "val", *outputs, "--device", "cpu")
    assert completed.code == 0, completed.output
    with np.load(finished_run / "confusion.npz") as recorded, np.load(confusion) as predicted:
        assert recorded["counts"].sum() > 0
        np.testing.assert_array_equal(predicted["counts"], recorded["counts"])
        assert predicted["images"].tolist() == recorded["images"].tolist()
        assert json.loads(scores.read_text())["confusion"] == recorded["counts"].sum(0).tolist()
    best = json.loads((finished_run / "status.json").read_text())["best"]
    found = json.loads(scores.read_text())
    assert {key: found[key] for key in ("miou", "miou_image", "miou_batch", "iou")} == {
        key: best[key] for key in ("miou", "miou_image", "miou_batch", "iou")
    }
    assert f"mIoU {best['miou']:.4f} (pooled)" in completed.output


def read_rule(run: Path, data: Path, names: list[str], *, size: int) -> list[str]:
    """The competition's rule, read plainly: predict at the training size, argmax, then resize to 256 by nearest."""
    settings = json.loads((run / "status.json").read_text())["config"]
    model = smp.create_model(settings["decoder"]["name"], settings["encoder"]["name"], encoder_weights=None, classes=12)
    model.load_state_dict(safetensors.torch.load_file(run / "best.safetensors"))
    model.eval()
    before = A.Compose([A.Resize(size, size), A.Normalize()])
    after = A.Resize(256, 256, interpolation=cv2.INTER_NEAREST, mask_interpolation=cv2.INTER_NEAREST)
    strings = []
    for name in names:
        image = cv2.cvtColor(cv2.imread(str(data / name)), cv2.COLOR_BGR2RGB)
        with torch.no_grad():
            logits = model(torch.from_numpy(before(image=image)["image"]).permute(2, 0, 1)[None])
        labels = logits.argmax(1)[0].numpy().astype(np.uint8)
        resized = after(image=np.zeros((size, size, 3), np.uint8), mask=labels)["mask"]
        strings.append(" ".join(str(value) for value in resized.flatten()))
    return strings


def check_submission(path: Path, run: Path, data: Path, *, size: int) -> None:
    names = [image["file_name"] for image in json.loads((data / "test.json").read_text())["images"]]
    header, *rows = rows_of(path)
    assert header == ["image_id", "PredictionString"]
    assert [name for name, _ in rows] == names
    expected = read_rule(run, data, names, size=size)
    same = []
    for (_, found), wanted in zip(rows, expected, strict=True):
        values = np.array(found.split(" "), int)
        assert values.shape == (65536,)
        assert values.min() >= 0 and values.max() <= 11
        same.append(values == np.array(wanted.split(" "), int))
    # Batches sum in another order than single images: a pixel on the edge between two classes may fall to the other.
    assert np.mean(same) > 0.9999


def test_submission_follows_the_competitions_rule(
    toy_run: Path, cache_dir: Path, tmp_path: Path, predict: Predict
) -> None:
    completed = predict(toy_run, "--split", "test", "--submission", tmp_path / "submission.csv")
    assert completed.code == 0, completed.output
    (data,) = cache_dir.glob("toy-v*")
    check_submission(tmp_path / "submission.csv", toy_run, data, size=32)


@needs_trash190
@pytest.mark.slow
def test_a_run_on_real_photographs_to_its_submission(tmp_path: Path) -> None:
    settings = ("data=trash", f"data.root={TRASH190}", "encoder.weights=null", "training.image_size=64")
    trained = run_module("trash_seg.train", *settings, "training.epochs=3", "runtime=cpu", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (run,) = (tmp_path / "outputs" / "default").iterdir()
    outputs = ("--submission", "submission.csv", "--masks", "masks", "--overlays", "overlays", "--device", "cpu")
    completed = run_module("trash_seg.predict", str(run), "--data", str(TRASH190 / "test.json"), *outputs, cwd=tmp_path)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert len(rows_of(tmp_path / "submission.csv")) == 31
    check_submission(tmp_path / "submission.csv", run, TRASH190, size=64)
    for image in json.loads((TRASH190 / "test.json").read_text())["images"]:
        with Image.open((tmp_path / "masks" / image["file_name"]).with_suffix(".png")) as mask:
            assert mask.size == (image["width"], image["height"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own decode
def test_masks_are_the_winners_of_the_enlarged_probabilities(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "a.jpg", 201, 77)
    folders = ("--masks", tmp_path / "m", "--probabilities", tmp_path / "p", "--coco", tmp_path / "c.json")
    completed = predict(toy_run, "--data", tmp_path / "a.jpg", *folders)
    assert completed.code == 0, completed.output
    with np.load(tmp_path / "p" / "a.npz") as stored:
        probabilities = stored["probabilities"].astype(np.float32)
        assert stored["classes"].tolist()[3] == "Paper"
    assert probabilities.shape == (12, 32, 32)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=5e-3)
    enlarged = np.stack([cv2.resize(plane, (201, 77), interpolation=cv2.INTER_LINEAR) for plane in probabilities])
    with Image.open(tmp_path / "m" / "a.png") as image:
        mask = np.asarray(image)
        assert image.mode == "P"
    assert mask.shape == (77, 201)
    assert len(np.unique(mask)) > 2
    assert (mask == enlarged.argmax(0)).mean() > 0.999  # float16 was stored
    united = np.zeros_like(mask)
    for entry in json.loads((tmp_path / "c.json").read_text()):
        runs = coco_mask.decode({"size": entry["segmentation"]["size"], "counts": entry["segmentation"]["counts"]})
        united[np.asarray(runs, bool)] = entry["category_id"]
        assert entry["image_id"] == "a.jpg"
        assert 1 / 12 < entry["score"] <= 1
    np.testing.assert_array_equal(united, mask)


def test_uint8_probabilities_are_255_at_1(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "a.png", 40, 40)
    for kind in ("uint8", "float16"):
        options = ("--probabilities", tmp_path / kind, "--probability-type", kind)
        assert predict(toy_run, "--data", tmp_path / "a.png", *options).code == 0
    with np.load(tmp_path / "uint8" / "a.npz") as coarse, np.load(tmp_path / "float16" / "a.npz") as fine:
        assert coarse["probabilities"].dtype == np.uint8
        np.testing.assert_allclose(coarse["probabilities"] / 255, fine["probabilities"], atol=3e-3)


def test_coco_results_carry_the_ids_of_the_file(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "in").mkdir()
    random_image(tmp_path / "in" / "a.png", 64, 48)
    content = {
        "images": [{"id": 4711, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 100 + i, "name": n} for i, n in enumerate(["Paper", "Metal", "Battery", "Plastic"])],
        "annotations": [],
    }
    (tmp_path / "in" / "test.json").write_text(json.dumps(content))
    options = ("--coco", tmp_path / "c.json", "--masks", tmp_path / "m")
    completed = predict(toy_run, "--data", tmp_path / "in" / "test.json", *options)
    assert completed.code == 0, completed.output
    entries = json.loads((tmp_path / "c.json").read_text())
    assert {entry["image_id"] for entry in entries} == {4711}
    with Image.open(tmp_path / "m" / "a.png") as image:
        present = set(np.unique(np.asarray(image)).tolist()) - {0}
    ids = {3: 100, 5: 101, 10: 102, 7: 103}
    assert {entry["category_id"] for entry in entries} == {ids[index] for index in present & ids.keys()}
    assert present - ids.keys()
    assert "has no category for UNKNOWN, General trash, Paper pack, Glass," in completed.output


def test_overlays_show_image_colours_and_legend(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "a.png", 300, 200)
    folders = ("--overlays", tmp_path / "o", "--masks", tmp_path / "m")
    assert predict(toy_run, "--data", tmp_path / "a.png", *folders).code == 0
    overlay = read_image(tmp_path / "o" / "a.jpg").astype(int)
    source = read_image(tmp_path / "a.png").astype(int)
    with Image.open(tmp_path / "m" / "a.png") as image:
        mask, colors = np.asarray(image), np.asarray(image.convert("RGB")).astype(int)
    assert overlay.shape[1] == 300 and overlay.shape[0] > 220
    expected = np.where((mask > 0)[..., None], 0.45 * source + 0.55 * colors, source)
    assert np.abs(overlay[:200] - expected).mean() < 4  # JPEG
    assert overlay[200:].std() > 10  # the legend is not empty


def test_many_images_are_streamed_in_order(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for index in range(45):
        random_image(tmp_path / "in" / "deep" / f"{index:02}.png", 20 + index, 33)
    for name in ("notes.txt", "paper.pdf", "._00.png"):
        (tmp_path / "in" / name).write_text("no image")
    completed = predict(toy_run, "--data", tmp_path / "in", "--submission", tmp_path / "s.csv", "--batch-size", 4)
    assert completed.code == 0, completed.output
    assert "3 files that are no images are left out" in completed.output
    assert [row[0] for row in rows_of(tmp_path / "s.csv")[1:]] == [f"deep/{index:02}.png" for index in range(45)]
    one = predict(toy_run, "--data", tmp_path / "in" / "deep" / "44.png", "--submission", tmp_path / "t.csv")
    assert one.code == 0
    first, second = (np.array(rows_of(tmp_path / name)[-1][1].split()) for name in ("s.csv", "t.csv"))
    assert (first == second).mean() > 0.9999


def test_names_that_differ_in_the_suffix_alone_keep_it(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        random_image(tmp_path / "in" / name, 30, 30)
    assert predict(toy_run, "--data", tmp_path / "in", "--masks", tmp_path / "m").code == 0
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["a.jpg.png", "a.png.png", "b.png"]


def test_several_runs_are_averaged(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    other = make_run(tmp_path / "runs", "seed=3", "decoder=FPN", "training.image_size=64")
    random_image(tmp_path / "a.png", 90, 60)
    seen = {}
    for name, runs in {"first": [toy_run], "second": [other], "both": [toy_run, other]}.items():
        completed = predict(*runs, "--data", tmp_path / "a.png", "--probabilities", tmp_path / name)
        assert completed.code == 0, completed.output
        with np.load(tmp_path / name / "a.npz") as stored:
            seen[name] = stored["probabilities"].astype(np.float32)
    small = np.stack([cv2.resize(plane, (64, 64), interpolation=cv2.INTER_LINEAR) for plane in seen["first"]])
    np.testing.assert_allclose(seen["both"], (small + seen["second"]) / 2, atol=2e-3)
