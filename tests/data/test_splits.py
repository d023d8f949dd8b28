import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TRASH190, needs_trash190
from tests.data.broken import Coco
from trash_seg.compose import compose_config
from trash_seg.data.source import read_source
from trash_seg.data.splits import assign


def labels(number: int = 600) -> np.ndarray:
    """(N, 6) classes present, from common to rare."""
    rng = np.random.default_rng(0)
    return rng.random((number, 6)) < np.array([0.9, 0.5, 0.2, 0.1, 0.03, 0.01])


def test_parts_have_their_share_of_images_and_of_each_class() -> None:
    present = labels()
    parts = assign(present, fractions=[0.2] * 5, seed=3)
    for part in range(5):
        rows = present[parts == part]
        assert abs(len(rows) - 120) <= 6
        assert (np.abs(rows.sum(axis=0) - present.sum(axis=0) / 5) <= np.array([8, 6, 3, 2, 1, 1])).all()


def test_stratification_beats_a_random_split() -> None:
    present = labels()
    rare = present[:, 4:].sum(axis=0)

    def deviation(parts: np.ndarray) -> float:
        counts = np.array([present[parts == part][:, 4:].sum(axis=0) for part in range(5)])
        return float(np.abs(counts - rare / 5).mean())

    shuffled = [deviation(np.random.default_rng(seed).permutation(np.arange(len(present)) % 5)) for seed in range(20)]
    assert deviation(assign(present, fractions=[0.2] * 5, seed=3)) < min(shuffled)


def test_seed_decides() -> None:
    first = assign(labels(), fractions=[0.8, 0.2], seed=1)
    assert np.array_equal(first, assign(labels(), fractions=[0.8, 0.2], seed=1))
    assert not np.array_equal(first, assign(labels(), fractions=[0.8, 0.2], seed=2))


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    coco = Coco(tmp_path, "annotations.json", seed=0)
    for index in range(40):
        coco.image(f"images/{index:02}.png")
    coco.write()
    return tmp_path


def parts_of(root: Path, *overrides: str) -> dict[str, set[str]]:
    settings = ["data=trash", "data.train=null", "data.val=null", "data.annotations=annotations.json"]
    config = compose_config([*settings, f"data.root={root}", *overrides])
    source = read_source(config.data, cache_dir=root, with_test=True)
    return {name: {record.file_name for record in part.records} for name, part in source.parts.items()}


def test_every_image_validates_in_one_fold(one_file: Path) -> None:
    folds = [parts_of(one_file, "data.num_folds=5", f"data.fold={fold}") for fold in range(5)]
    for fold in folds:
        assert fold["train"] | fold["val"] == folds[0]["train"] | folds[0]["val"]
        assert not fold["train"] & fold["val"]
        assert 7 <= len(fold["val"]) <= 9
    assert len(set().union(*(fold["val"] for fold in folds))) == 40


def test_fractions_divide_a_file(one_file: Path) -> None:
    parts = parts_of(one_file, "data.val_fraction=0.25", "data.test_fraction=0.1")
    assert parts["train"] | parts["val"] | parts["test"] == {f"images/{index:02}.png" for index in range(40)}
    for name, number in (("train", 26), ("val", 10), ("test", 4)):
        assert abs(len(parts[name]) - number) <= 1
    assert parts != parts_of(one_file, "data.val_fraction=0.25", "data.test_fraction=0.1", "data.split_seed=5")
    assert "test" not in parts_of(one_file, "data.test_fraction=0")


def test_folds_share_one_cache(one_file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from trash_seg.data.dataset import open_dataset

    cache = tmp_path_factory.mktemp("cache")
    for fold in range(3):
        config = compose_config(
            ["data=trash", "data.train=null", "data.val=null", "data.annotations=annotations.json", "data.num_folds=3",
             f"data.root={one_file}", f"data.fold={fold}", f"runtime.cache_dir={cache}"]
        )  # fmt: skip
        cached = open_dataset(config.data, image_size=32, runtime=config.runtime)
        config.runtime.cache = False
        plain = open_dataset(config.data, image_size=32, runtime=config.runtime)
        assert all(np.array_equal(cached.val.images[i], plain.val.images[i]) for i in range(len(plain.val.names)))
        assert np.array_equal(cached.pixels, plain.pixels)
    assert len(list(cache.glob("samples-*"))) == 1


@needs_trash190
def test_tacos_categories_are_grouped_as_in_the_competition() -> None:
    """The same photographs, once with TACO's categories and once with the competition's: the same classes."""

    def drawn(*overrides: str) -> dict[tuple[str, str], int]:
        config = compose_config([*overrides, f"data.root={TRASH190}"])
        source = read_source(config.data, cache_dir=TRASH190, with_test=False)
        return {
            (record.file_name, json.dumps(annotation.segmentation)): annotation.class_index
            for unit in source.units
            for record in unit.records
            for annotation in record.annotations
        }

    competition, taco = drawn("data=trash"), drawn("data=taco")
    assert competition.items() <= taco.items()
    assert len(competition) == 504
