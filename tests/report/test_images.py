"""Confusion counts, pictures, and the bootstrap over validation images."""

from pathlib import Path

import numpy as np
import pytest

from tests.report.simulate import CLASSES, pooled_miou, predict, write_run
from tests.report.test_rank import build
from trash_seg.report.collect import collect
from trash_seg.report.images import (
    READ_ERRORS,
    bootstrap_images,
    confusion_of,
    mean_iou,
    overlaps,
    pictures,
    read_confusion,
)


def test_mean_iou_by_hand() -> None:
    counts = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])  # the third class occurs nowhere
    assert mean_iou(*overlaps(counts)) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert np.isnan(mean_iou(*overlaps(np.zeros((3, 3), dtype=int))))


def test_counts_give_the_recorded_score(tmp_path: Path) -> None:
    write_run(tmp_path, num_images=10)
    (run,) = collect(tmp_path)
    counts = read_confusion(run).counts
    assert run.best is not None
    assert mean_iou(*overlaps(counts.sum(axis=0))) == pytest.approx(run.best.miou)
    assert run.best.miou == pytest.approx(pooled_miou(counts))


def test_the_bootstrap_resamples_images_for_both_alike(tmp_path: Path) -> None:
    for index, miou in enumerate((0.6, 0.5)):
        write_run(tmp_path, encoder=f"e{index}", hash=f"{index:08x}", miou=miou, num_images=16)
    board = build(tmp_path)
    (leader, other), left_out = bootstrap_images(board.groups[0].rows)
    assert left_out == []
    assert leader.row.encoder == "e0"
    assert (leader.difference_low, leader.difference_high, leader.p_leader_better) == (0, 0, 0.5)
    for item in (leader, other):
        assert item.row.score is not None
        assert item.low < item.row.score < item.high
    gap = leader.row.score - other.row.score  # type: ignore[operator]
    assert other.difference_low < gap < other.difference_high
    assert other.difference_high - other.difference_low < (other.high - other.low) / 2  # hard images are hard for both
    assert other.p_leader_better > 0.99


def test_the_bootstrap_interval_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    write_run(tmp_path, num_images=16)
    counts = predict(classes=CLASSES, num_images=16, quality=0.4, seed=21)["counts"]
    rng = np.random.default_rng(1)
    plain = [pooled_miou(counts[rng.integers(0, 16, 16)]) for _ in range(1000)]
    ((found,), _) = bootstrap_images(build(tmp_path).groups[0].rows)
    assert [found.low, found.high] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.004)


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    for index, miou in enumerate((0.6, 0.5, 0.4, 0.3)):
        write_run(tmp_path, encoder=f"e{index}", hash=f"{index:08x}", miou=miou, num_images=12 + (index == 3))
    next(tmp_path.glob("e1-*")).joinpath("confusion.npz").unlink()
    next(tmp_path.glob("e2-*")).joinpath("confusion.npz").write_bytes(b"PK\x03\x04 cut short")
    results, left_out = bootstrap_images(build(tmp_path).groups[0].rows)
    assert [item.row.encoder for item in results] == ["e0"]
    assert ["e1" in left_out[0], "e2" in left_out[1], "other validation images" in left_out[2]] == [True] * 3


def test_without_the_leaders_counts_nothing_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="a", hash="00000001", miou=0.9)
    write_run(tmp_path, encoder="b", hash="00000002", num_images=12)
    results, left_out = bootstrap_images(build(tmp_path).groups[0].rows)
    assert (results, len(left_out)) == ([], 1)


def test_confusion_adds_up_the_seeds(tmp_path: Path) -> None:
    for seed in (21, 22):
        write_run(tmp_path, seed=seed, num_images=3)
    counts, classes = confusion_of(build(tmp_path).rows[0])
    assert counts.sum() == 2 * 3 * 48 * 48
    assert classes == CLASSES


def test_pictures_are_complete_in_themselves(tmp_path: Path) -> None:
    write_run(tmp_path, num_images=14)
    (run,) = collect(tmp_path)
    shown = pictures(run)
    assert len(shown) == 12
    assert shown[0].name == "batch_1/000000.jpg"
    assert shown[0].image.startswith("data:image/jpeg;base64,")
    assert shown[0].truth.startswith("data:image/png;base64,")
    assert shown[0].miou is not None


def test_pickled_content_is_refused(tmp_path: Path) -> None:
    directory = write_run(tmp_path, num_images=2)
    np.savez(
        directory.confusion_path, counts=np.array([{}], dtype=object), images=np.array(["a"]), classes=np.array(["b"])
    )
    (run,) = collect(tmp_path)
    with pytest.raises(READ_ERRORS, match="allow_pickle"):
        read_confusion(run)
