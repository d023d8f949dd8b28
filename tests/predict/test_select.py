"""Greedy selection of ensemble members."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.predict.conftest import Predict, make_run
from trash_seg.inference.select import add_greedily, best_prefix, bootstrap_gain

NUM_IMAGES, NUM_CLASSES, SIZE = 24, 3, 16


def simulate(rng, masks, *, errors):
    """Probabilities that favour the truth, but for a share `errors` of pixels."""
    wrong = rng.random(masks.shape) < errors
    favoured = np.where(wrong, (masks + rng.integers(1, NUM_CLASSES, masks.shape)) % NUM_CLASSES, masks)
    return (0.4 * np.eye(NUM_CLASSES)[favoured].transpose(0, 3, 1, 2) + 0.2).astype(np.float16)


def test_independent_members_help_and_a_copy_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, NUM_CLASSES, (NUM_IMAGES, SIZE, SIZE)).astype(np.uint8)
    good, second, third = (simulate(rng, masks, errors=0.3) for _ in range(3))
    bad = simulate(rng, masks, errors=0.66)
    additions = add_greedily([bad, second, good, third], masks)
    assert {addition.member for addition in additions[:3]} == {1, 2, 3}
    assert additions[3].member == 0
    assert best_prefix(additions) == 3
    assert additions[2].gain > 0.05 and not additions[2].is_noise
    assert additions[3].gain < 0 and additions[3].is_noise
    for earlier, later in itertools.pairwise(additions):
        assert later.gain == pytest.approx(later.miou - earlier.miou)
        assert later.interval is not None and later.interval[0] <= later.gain <= later.interval[1]
    copies = add_greedily([good, good], masks)
    assert copies[1].gain == 0 and copies[1].interval == (0, 0) and copies[1].is_noise
    assert best_prefix(copies) == 1


def test_the_bootstrap_is_paired_over_images() -> None:
    """Images that differ wildly among themselves, and a gain that is the same on each: a narrow interval."""
    rng = np.random.default_rng(1)
    before = np.zeros((40, 2, 2), np.int64)
    before[:, 0, 0], before[:, 1, 0] = 1000, rng.integers(100, 900, 40)
    before[:, 1, 1] = 1000 - before[:, 1, 0]
    after = before + 10 * np.array([[0, 0], [-1, 1]])
    low, high = bootstrap_gain(before, after)
    alone = bootstrap_gain(before, np.roll(after, 1, axis=0))
    assert 0 < low < high < 0.03
    assert alone[1] - alone[0] > 3 * (high - low)


def test_select_prints_what_each_run_adds_and_predicts_with_the_rest(tmp_path: Path, predict: Predict, toy_run: Path):
    others = [make_run(tmp_path / "runs", f"seed={seed}") for seed in (1, 2)]
    masks = tmp_path / "masks"
    completed = predict(toy_run, *others, "--select", "--split", "test", "--masks", masks)
    assert completed.code == 0, completed.output
    assert "95 % interval" in completed.output, completed.output
    assert "of 3 runs are kept" in completed.output
    for run in (toy_run, *others):
        assert run.name in completed.output
    assert len(list(masks.rglob("*.png"))) == 12


def test_runs_validated_on_different_data_need_a_truth(tmp_path: Path, predict: Predict, toy_run: Path) -> None:
    other = make_run(tmp_path / "runs", "data.overlap=smallest_on_top")
    completed = predict(toy_run, other, "--select")
    assert completed.code == 2
    assert "were validated on different data; give --truth FILE" in completed.output
