"""Views and windows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.predict.conftest import Predict, make_run, random_image
from trash_seg.inference.views import VIEWS
from trash_seg.inference.windows import Mosaic, place_windows, upsample_labels


@pytest.mark.parametrize(("name", "number"), [("none", 1), ("hflip", 2), ("flips", 4), ("turns", 4), ("all", 8)])
def test_views_are_different_and_come_back(name: str, number: int) -> None:
    images = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    seen = [view.apply(images) for view in VIEWS[name]]
    assert len({tuple(image.flatten().tolist()) for image in seen}) == number
    for view, image in zip(VIEWS[name], seen, strict=True):
        assert torch.equal(view.undo(image), images)


def test_flips_are_the_flips() -> None:
    images = torch.arange(25).reshape(1, 1, 5, 5)
    expected = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
    for view, image in zip(VIEWS["flips"], expected, strict=True):
        assert torch.equal(view.apply(images), image)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (64, 64), (65, 64), (333, 777)])
def test_windows_cover_every_pixel_and_overlap(shape: tuple[int, int], overlap: float) -> None:
    windows = place_windows(*shape, size=64, overlap=overlap)
    covered = np.zeros(shape, int)
    for window in windows:
        assert window.height == min(64, shape[0]) and window.width == min(64, shape[1])
        assert window.top + window.height <= shape[0] and window.left + window.width <= shape[1]
        covered[window.slices] += 1
    assert covered.min() >= 1
    lefts = sorted({window.left for window in windows})
    assert np.diff(lefts).max(initial=0) <= 64 * (1 - overlap)
    assert len(windows) == 1 or max(shape) > 64


def test_a_mosaic_of_one_scene_is_that_scene() -> None:
    rng = np.random.default_rng(0)
    scene = rng.random((3, 100, 130)).astype(np.float32)
    mosaic = Mosaic(100, 130, num_classes=3)
    for window in place_windows(100, 130, size=48, overlap=0.3):
        mosaic.add(window, np.ascontiguousarray(scene[:, *window.slices]))
    np.testing.assert_allclose(mosaic.mean(), scene, atol=1e-5)


def test_leaving_out_classes_that_cannot_win_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (12, 9, 7)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    probabilities[4:] *= 0.01
    probabilities /= probabilities.sum(0)
    labels, highest = upsample_labels(probabilities, 40, 61)
    enlarged = np.stack([cv2.resize(plane, (61, 40), interpolation=cv2.INTER_LINEAR) for plane in probabilities])
    np.testing.assert_array_equal(labels, enlarged.argmax(0))
    np.testing.assert_array_equal(highest, enlarged.max(0))


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_window_sees_what_an_image_of_its_size_shows(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "large.png", 96, 48)
    with Image.open(tmp_path / "large.png") as large:
        large.crop((48, 0, 96, 48)).save(tmp_path / "right.png")
    for name in ("large", "right"):
        options = ("--window", 48, "--overlap", 0)
        completed = predict(toy_run, "--data", tmp_path / f"{name}.png", "--masks", tmp_path / name, *options)
        assert completed.code == 0, completed.output
    mosaic, alone = mask_of(tmp_path / "large" / "large.png"), mask_of(tmp_path / "right" / "right.png")
    assert mosaic.shape == (48, 96)
    assert (mosaic[:, 48:] == alone).mean() > 0.999
    assert len(np.unique(alone)) > 1


def test_turning_the_image_turns_an_augmented_prediction(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "a.png", 64, 64)
    with Image.open(tmp_path / "a.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png")
    for tta in ("none", "all"):
        for name in ("a", "b"):
            options = ("--masks", tmp_path / tta / name, "--tta", tta)
            assert predict(toy_run, "--data", tmp_path / f"{name}.png", *options).code == 0
    same = {
        tta: (np.rot90(mask_of(tmp_path / tta / "a" / "a.png")) == mask_of(tmp_path / tta / "b" / "b.png")).mean()
        for tta in ("none", "all")
    }
    assert same["all"] > 0.995
    assert same["none"] < 0.9  # the network itself is not symmetric


def test_scales_are_averaged(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    random_image(tmp_path / "a.png", 64, 64)
    seen = {}
    for name, scales in {"one": [1], "two": [2], "both": [1, 2]}.items():
        options = ("--probabilities", tmp_path / name, "--scales", *scales)
        completed = predict(toy_run, "--data", tmp_path / "a.png", *options)
        assert completed.code == 0, completed.output
        with np.load(tmp_path / name / "a.npz") as stored:
            seen[name] = stored["probabilities"].astype(float)
    assert np.abs(seen["one"] - seen["two"]).max() > 0.05
    np.testing.assert_allclose(seen["both"], (seen["one"] + seen["two"]) / 2, atol=2e-3)


def test_a_size_that_the_network_refuses_is_one_line(tmp_path: Path, predict: Predict) -> None:
    vit = ("encoder=timm", "encoder.name=tu-vit_tiny_patch16_224", "decoder=DPT", "training.image_size=224")
    run = make_run(tmp_path / "runs", *vit)
    random_image(tmp_path / "a.png", 64, 64)
    completed = predict(run, "--data", tmp_path / "a.png", "--masks", tmp_path / "m", "--scales", 1, 1.5)
    assert completed.code == 2
    assert completed.output.splitlines()[-1].startswith(f"error: --scales: {run.name} does not take 336 px (")
    assert not any((tmp_path / "m").iterdir())
