import json
import re
from pathlib import Path
from typing import Any

import pytest

import trash_seg.check
from tests.conftest import TINY, TRASH190, Train, needs_trash190, run_module
from tests.data.broken import CATEGORIES, breaks_annotations, breaks_images, clean
from trash_seg.data.findings import RULES

FILE_RULES = {"missing-file", "missing-test", "not-json", "not-coco", "empty-split", "no-labels"}
FOLDER_RULES = {"missing-mask", "broken-mask", "unknown-index", "other-file", "unused-mask"}


def check_as_users_do(cwd: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, check.json and what was printed."""
    completed = run_module("trash_seg.check", *arguments, cwd=cwd)
    assert "Traceback" not in completed.stderr, completed.stderr
    return completed.returncode, json.loads((cwd / "check.json").read_text()), completed.stdout


def check(out: Path, *overrides: str, read_images: bool = True) -> tuple[int, dict[str, Any]]:
    """The same within this process."""
    code = trash_seg.check.check(list(overrides), out=out, read_images=read_images)
    return code, json.loads((out / "check.json").read_text())


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_rule_at_once_is_found_once(tmp_path: Path) -> None:
    root = tmp_path / "data"
    train, val = clean(root)
    images = breaks_images(root, train, val)
    ids = breaks_annotations(train, val)
    train.write()
    val.write()
    before = files_of(root)
    code, content, printed = check_as_users_do(
        tmp_path, "data=trash", f"data.root={root}", "+data.class_of.Silver=Metal"
    )
    assert code == 1
    expected = {*images, *ids, "unused-mapping"}
    assert expected == RULES.keys() - FILE_RULES - FOLDER_RULES, "a rule without a test"
    assert content["counts"] == dict.fromkeys(sorted(expected), 1)
    for finding in content["findings"]:
        rule = RULES[finding["code"]]
        assert finding["severity"] == ("error" if rule.error else "warning")
        assert finding["action"] == rule.action
        if finding["code"] in images:
            assert finding["image"].endswith(images[finding["code"]])
        elif ids.get(finding["code"]) is not None:
            assert finding["annotation"] == ids[finding["code"]]
        assert finding["code"] in printed
    assert files_of(root) == before
    assert not (tmp_path / "escape.png").exists()
    page = (tmp_path / "check.html").read_text()
    assert page.count("<details") == len(expected)
    assert page.count("data:image/jpeg;base64,") > len(ids)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_clean_dataset_passes(tmp_path: Path) -> None:
    train, val = clean(tmp_path / "data")
    train.write()
    val.write()
    code, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}")
    assert (code, content["findings"]) == (0, [])
    metal = content["splits"]["train"]["classes"]["Metal"]
    assert metal == {"images": 1, "instances": 1, "pixels": 400}
    assert content["splits"]["test"]["images"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "missing-file"),
        ('{"images": [', "not-json"),
        ("never JSON", "not-json"),
        ("[1, 2]", "not-coco"),
        ('{"images": [], "categories": []}', "not-coco"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "not-coco"),
        ('{"images": [], "annotations": [], "categories": []}', "empty-split"),
    ],
)
def test_a_file_that_is_no_coco_file(tmp_path: Path, text: str | None, expected: str) -> None:
    train, _ = clean(tmp_path / "data")
    train.write()
    if text is not None:
        (tmp_path / "data" / "val.json").write_text(text)
    code, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}")
    found = [finding["code"] for finding in content["findings"] if finding["file"] == "val.json"]
    assert code == 1
    assert expected in found


def test_annotations_that_are_all_lost_stop_training(tmp_path: Path) -> None:
    """As where ids are strings in one place and numbers in the other."""
    train, val = clean(tmp_path / "data")
    for annotation in train.content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    train.write()
    val.write()
    code, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}", read_images=False)
    assert code == 1
    assert content["counts"] == {"no-annotations": 11, "unknown-image": 11, "no-labels": 1}
    texts = {finding["code"]: finding["message"] for finding in content["findings"]}
    assert "is of image '10', which is not listed: ids are numbers in one place and str" in texts["unknown-image"]
    assert "train.json: not one annotation can be used" in texts["no-labels"]
    for annotation in train.content["annotations"]:
        annotation.update(image_id=int(annotation["image_id"]), category_id=str(annotation["category_id"]))
    train.write()
    code, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}", read_images=False)
    texts = {finding["code"]: finding["message"] for finding in content["findings"]}
    assert code == 1 and "is not listed: ids are numbers in one place and str" in texts["unknown-category"]


def test_a_fold_that_has_none_of_the_few_annotations_is_no_error(tmp_path: Path) -> None:
    train, _ = clean(tmp_path / "data")
    del train.content["annotations"][1:]
    train.write()
    classes = f"data.classes=[Background,{','.join(CATEGORIES)}]"
    folds = ("data.annotations=train.json", "data.num_folds=3", "data.fold=0")
    code, content = check(tmp_path, "data=coco", f"data.root={tmp_path / 'data'}", classes, *folds, read_images=False)
    assert (code, content["counts"]) == (0, {"no-annotations": 10, "absent-class": 21})


def test_a_missing_test_split_is_no_error(tmp_path: Path) -> None:
    for coco in clean(tmp_path / "data"):
        coco.write()
    (tmp_path / "data" / "test.json").unlink()
    code, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}")
    assert (code, content["counts"]) == (0, {"missing-test": 1})


def test_annotations_only_opens_no_image(tmp_path: Path) -> None:
    root = tmp_path / "data"
    train, val = clean(root)
    ids = breaks_annotations(train, val)
    train.write()
    val.write()
    for path in (root / "images").iterdir():
        path.unlink()
    code, content, _ = check_as_users_do(tmp_path, "data=trash", f"data.root={root}", "--annotations-only")
    assert code == 1
    assert content["counts"] == dict.fromkeys(sorted(ids), 1)
    assert content["images_read"] is False


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    train, val = clean(tmp_path / "data")
    train.image("images/<script>alert(1)</script>[bold].png".replace("/script", "_script"), annotate=False)
    train.write()
    val.write()
    code, _, printed = check_as_users_do(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}")
    assert code == 0
    assert "[bold].png" in printed
    page = (tmp_path / "check.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_trainer_refuses_with_the_same_message(tmp_path: Path, train: Train) -> None:
    root = tmp_path / "data"
    coco, val = clean(root)
    coco.image("images/size.png", coco.picture(60, 48))
    coco.write()
    val.write()
    _, content = check(tmp_path, "data=trash", f"data.root={root}")
    (finding,) = (f for f in content["findings"] if f["severity"] == "error")
    completed = train("data=trash", f"data.root={root}", "encoder.weights=null", *TINY)
    assert completed.code == 1
    assert finding["message"] in completed.output
    assert "Traceback" not in completed.output
    (status,) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert (status["state"], status["error"]) == ("failed", finding["message"])


@needs_trash190
@pytest.mark.parametrize(("data", "absent"), [("trash", ["Battery"]), ("taco", ["Battery", "Clothing"])])
def test_the_photographs_check_clean_but_for_rare_classes(tmp_path: Path, data: str, absent: list[str]) -> None:
    code, content = check(tmp_path, f"data={data}", f"data.root={TRASH190}", read_images=data == "trash")
    assert code == 0
    assert [finding["code"] for finding in content["findings"]] == ["absent-class"] * len(absent)
    assert all(name in f["message"] for name, f in zip(absent, content["findings"], strict=True))


def test_uncompressed_images_are_the_same_only_where_every_byte_is(tmp_path: Path) -> None:
    train, val = clean(tmp_path / "data")
    images = tmp_path / "data" / "images"
    picture = train.picture()
    almost = picture.copy()
    almost.putpixel((0, 0), tuple(255 - value for value in picture.getpixel((0, 0))))
    for coco, name, content in ((train, "a", picture), (val, "b", picture), (val, "c", almost)):
        coco.image(f"images/{name}.bmp", content)
    assert len({(images / f"{name}.bmp").stat().st_size for name in "abc"}) == 1
    train.write()
    val.write()
    _, content = check(tmp_path, "data=trash", f"data.root={tmp_path / 'data'}")
    same = [(finding["image"], finding["other"]) for finding in content["findings"] if finding["code"] == "same-image"]
    assert same == [("images/b.bmp", "images/a.bmp")]
