import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.conftest import TRASH190, needs_trash190
from trash_seg.compose import compose_config
from trash_seg.data.coco import Annotation, CocoReader, ImageRecord
from trash_seg.data.raster import draw_mask

CLASSES = compose_config([]).data.classes


@needs_trash190
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode under numpy 2
@pytest.mark.parametrize("overlap", ["highest_class", "smallest_on_top"])
def test_equals_pycocotools_on_every_photograph(overlap: str) -> None:
    reader = CocoReader(TRASH190, classes=CLASSES, class_of={})
    for part in ("train", "val"):
        file = reader.read(f"{part}.json")
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(TRASH190 / f"{part}.json"))
        for record, info in zip(file.images, coco.dataset["images"], strict=True):
            drawn = [(coco.annToMask(a), a["category_id"] + 1) for a in coco.imgToAnns[info["id"]]]
            expected = np.zeros((info["height"], info["width"]), int)
            if overlap == "highest_class":
                for mask, index in drawn:
                    expected = np.maximum(expected, mask * index)
            else:
                for mask, index in sorted(drawn, key=lambda pair: -int(pair[0].sum())):
                    expected[mask == 1] = index
            assert np.array_equal(draw_mask(record, overlap=overlap), expected), record.file_name


def square(x: int, y: int, side: int) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def test_parts_of_a_polygon_are_united() -> None:
    record = ImageRecord("a.jpg", 20, 10, [Annotation(0, 3, [square(1, 1, 3), square(10, 2, 5)])])
    expected = np.zeros((10, 20), np.uint8)
    expected[1:4, 1:4] = 3
    expected[2:7, 10:15] = 3
    assert np.array_equal(draw_mask(record, overlap="highest_class"), expected)


def test_both_kinds_of_rle_equal_the_mask() -> None:
    region = np.random.default_rng(0).random((10, 20)) < 0.4
    region[0, 0] = True  # an uncompressed RLE that begins with a run of no pixels
    compressed = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    flat = region.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = [0, *np.diff([0, *ends, flat.size]).tolist()]
    for rle in ({"size": [10, 20], "counts": compressed["counts"].decode()}, {"size": [10, 20], "counts": counts}):
        record = ImageRecord("a.jpg", 20, 10, [Annotation(0, 5, rle)])
        assert np.array_equal(draw_mask(record, overlap="highest_class") == 5, region)


def test_overlap_rules_differ_where_they_should() -> None:
    small_low = Annotation(0, 1, [square(4, 4, 3)])
    large_high = Annotation(1, 2, [square(2, 2, 8)])
    for annotations in ([small_low, large_high], [large_high, small_low]):
        record = ImageRecord("a.jpg", 12, 12, annotations)
        assert draw_mask(record, overlap="highest_class")[5, 5] == 2
        assert draw_mask(record, overlap="smallest_on_top")[5, 5] == 1
        assert draw_mask(record, overlap="smallest_on_top")[3, 3] == 2


def test_of_equal_regions_the_later_is_on_top() -> None:
    first, second = Annotation(0, 7, [square(1, 1, 4)]), Annotation(1, 2, [square(3, 1, 4)])
    record = ImageRecord("a.jpg", 10, 10, [first, second])
    assert draw_mask(record, overlap="smallest_on_top")[2, 4] == 2
