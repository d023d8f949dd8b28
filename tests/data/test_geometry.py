import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from trash_seg.data.coco import leaves_folder
from trash_seg.data.geometry import check_segmentation, rle_counts


def codes(entry: dict[str, Any], *, width: int = 20, height: int = 10) -> list[str]:
    return [code for code, _ in check_segmentation(entry, width=width, height=height)[1]]


@pytest.mark.parametrize("seed", range(30))
def test_rle_of_random_masks_reads_as_pycocotools_wrote_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2)
    mask = np.zeros((height, width), np.uint8, order="F")
    top, left = rng.integers(height), rng.integers(width)
    mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = 1
    if seed % 3 == 0:
        mask &= (rng.random(mask.shape) < 0.7).astype(np.uint8)
    rle = coco_mask.encode(mask)
    runs = rle_counts(rle["counts"].decode())
    assert runs is not None and runs.sum() == mask.size
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))
    entry = {"segmentation": {"size": [int(height), int(width)], "counts": rle["counts"].decode()}}
    stated = {"bbox": coco_mask.toBbox(rle).tolist(), "area": int(coco_mask.area(rle))}
    expected = [] if mask.any() else ["zero-area"]
    assert codes({**entry, **stated}, width=int(width), height=int(height)) == expected
    if mask.any():
        far = {"bbox": [v + 40 for v in stated["bbox"]], "area": stated["area"] * 2 + 10}
        wrong = codes({**entry, **far}, width=int(width) + 0, height=int(height))
        assert "area-mismatch" in wrong


@pytest.mark.parametrize(
    "counts", ["", "o", "\x00\x01", "ééé", "zzzzzzzzzzzzzz", "00000", [], [201], [-1, 201], [1.5, 198.5], [[200]],
               ["a"], None, {}, [10**30], "P" * 500]
)  # fmt: skip
def test_malformed_rle_is_a_finding(counts: Any) -> None:
    assert codes({"segmentation": {"size": [10, 20], "counts": counts}}) == ["bad-segmentation"]


@pytest.mark.parametrize("size", [None, [20, 10], [10], "big", [10, 20, 1], [10**12, 10**12]])
def test_rle_of_another_size_is_a_finding(size: Any) -> None:
    assert codes({"segmentation": {"size": size, "counts": [0, 200]}}) == ["rle-size"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e300", "-1e9", "1e400"])
def test_absurd_coordinates_are_refused_as_json_brings_them(value: str) -> None:
    entry = json.loads(f'{{"segmentation": [[1, 1, {value}, 5, 5, 5]]}}')
    assert codes(entry) == ["absurd-coordinates"]


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 1, 5, 1, 5, 5]], []),
        ([[0, 0, 20.9, 0, 20.9, 10.9]], []),  # up to 1 px outside is clipped without a word
        ([[0, 0, 21.5, 0, 20, 9]], ["outside-image"]),
        ([[25, 2, 30, 2, 30, 8]], ["outside-image", "zero-area"]),
        ([[1, 1, 5, 5, 9, 9]], ["zero-area"]),
        ([[1, 1, 5, 1]], ["short-polygon"]),
        ([[1, 1, 5, 1, 5]], ["odd-polygon"]),
        ([], ["zero-area"]),
        ([1, 2, 3, 4, 5, 6], ["bad-segmentation"]),
        ([["a", "b"]], ["bad-segmentation"]),
        ([[[1, 2], [3, 4]]], ["bad-segmentation"]),
        ([[10**400, 1, 5, 1, 5, 5]], ["bad-segmentation"]),
        (7, ["bad-segmentation"]),
        (None, ["bad-segmentation"]),
    ],
)
def test_polygons(segmentation: Any, expected: list[str]) -> None:
    assert codes({"segmentation": segmentation}) == expected


def test_only_the_unusable_part_is_left_out() -> None:
    good = [1, 1, 5, 1, 5, 5]
    usable, _ = check_segmentation({"segmentation": [good, [1, 1], good]}, width=20, height=10)
    assert usable == [good, good]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "C:/a.jpg", "C:a.jpg", "a\\..\\..\\b.jpg",
             "\\\\host\\a.jpg", "", "a\0.jpg"]
)  # fmt: skip
def test_names_that_leave_the_folder(name: str) -> None:
    assert leaves_folder(name)


@pytest.mark.parametrize("name", ["a.jpg", "images/a.jpg", "batch_1/..a.jpg", "ä ö.jpg", "./a.jpg"])
def test_names_that_stay_in_the_folder(name: str) -> None:
    assert not leaves_folder(name)
