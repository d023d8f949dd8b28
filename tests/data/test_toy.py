from pathlib import Path

from pycocotools.coco import COCO

from trash_seg.compose import compose_config
from trash_seg.data.toy import make_toy

CLASSES = compose_config([]).data.classes


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = make_toy(tmp_path / "a", classes=CLASSES), make_toy(tmp_path / "b", classes=CLASSES)
    assert files(first) == files(second)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.name]
    stamp = (first / "train.json").stat().st_mtime_ns
    assert make_toy(tmp_path / "a", classes=CLASSES) == first
    assert (first / "train.json").stat().st_mtime_ns == stamp


def test_it_is_a_competition_dataset(tmp_path: Path) -> None:
    root = make_toy(tmp_path, classes=CLASSES)
    kinds = set()
    for part, number in (("train", 96), ("val", 24), ("test", 12)):
        coco = COCO(str(root / f"{part}.json"))
        assert len(coco.imgs) == number
        assert [category["name"] for category in coco.dataset["categories"]] == CLASSES[1:]
        for info in coco.imgs.values():
            assert (root / info["file_name"]).read_bytes()[:2] == b"\xff\xd8"  # a true JPEG
        if part == "test":
            assert not coco.anns
            continue
        assert {a["category_id"] for a in coco.anns.values()} == set(range(11))
        assert sum(not coco.getAnnIds(imgIds=id_) for id_ in coco.imgs) == 1
        for annotation in coco.anns.values():
            segmentation = annotation["segmentation"]
            kinds.add(type(segmentation if isinstance(segmentation, list) else segmentation["counts"]))
    assert len(kinds) == 2 and str in kinds  # polygons and uncompressed counts are lists both
