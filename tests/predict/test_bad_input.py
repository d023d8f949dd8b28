"""What cannot be used is one line; one bad image does not stop the others."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.predict.conftest import Predict, make_run, random_image
from trash_seg.compose import compose_config
from trash_seg.errors import UserError
from trash_seg.inference.ensemble import build_ensemble
from trash_seg.inference.load import load_run
from trash_seg.rundir import RunDir


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, one of them cut short."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        random_image(folder / f"{name}.jpg", 60, 40)
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[:-30])
    return folder


def refused(predict: Predict, *arguments: object) -> str:
    """The one line of a refusal."""
    completed = predict(*arguments)
    assert completed.code == 2, completed.output
    line = completed.output.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in completed.output
    return line.removeprefix("error: ")


def test_a_broken_image_is_named_and_the_others_go_on(
    toy_run: Path, images: Path, tmp_path: Path, predict: Predict
) -> None:
    outputs = ("--masks", tmp_path / "m", "--coco", tmp_path / "c.json", "--submission", tmp_path / "s.csv")
    completed = predict(toy_run, "--data", images, *outputs)
    assert completed.code == 1, completed.output
    assert f"{images / 'b.jpg'}: does not decode, or is cut short" in completed.output
    assert "1 of 3 images could not be predicted" in completed.output
    assert f"{tmp_path / 's.csv'}: not written, it would lack them" in completed.output
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["a.png", "c.png"]
    assert {entry["image_id"] for entry in json.loads((tmp_path / "c.json").read_text())} == {"a.jpg", "c.jpg"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "in", "m"]  # nothing half-written


def test_an_image_of_another_size_than_its_file_says_is_a_failure(toy_run: Path, tmp_path: Path, predict: Predict):
    random_image(tmp_path / "a.png", 60, 40)
    entries = [{"id": 1, "file_name": "a.png", "width": 61, "height": 40}]
    (tmp_path / "test.json").write_text(json.dumps({"images": entries}))
    completed = predict(toy_run, "--data", tmp_path / "test.json", "--submission", tmp_path / "s.csv")
    assert completed.code == 1
    assert "a.png: is 60×40, its annotations are for 61×40" in completed.output
    assert not (tmp_path / "s.csv").exists()


def test_what_is_no_finished_run_is_refused(toy_run: Path, images: Path, tmp_path: Path, predict: Predict) -> None:
    asked = ("--data", images / "a.jpg", "--masks", tmp_path / "m")
    assert "no run (it has no status.json)" in refused(predict, images, *asked)
    assert "no run (it has no status.json)" in refused(predict, tmp_path / "nowhere", *asked)
    unfinished = make_run(tmp_path / "runs", state="interrupted")
    message = refused(predict, unfinished, *asked)
    assert "this run is interrupted, not done; --allow-unfinished uses its best epoch so far" in message
    assert predict(unfinished, *asked, "--allow-unfinished").code == 0
    (unfinished / "best.safetensors").unlink()
    message = refused(predict, unfinished, *asked, "--allow-unfinished", "--overwrite")
    assert "best.safetensors: is not there" in message


def test_damaged_or_foreign_weights_and_settings_are_refused(toy_run: Path, images: Path, tmp_path: Path, predict):
    asked = ("--data", images / "a.jpg", "--masks", tmp_path / "m")
    run = shutil.copytree(toy_run, tmp_path / "run")
    (run / "best.safetensors").write_bytes(b"PK\3\4 a pickle, maybe")
    assert "best.safetensors: damaged, or of another network" in refused(predict, run, *asked)
    safetensors.torch.save_file({"weight": torch.zeros(1)}, run / "best.safetensors")
    assert "best.safetensors: damaged, or of another network" in refused(predict, run, *asked)
    status = json.loads((run / "status.json").read_text())
    status["config"]["decoder"]["flavour"] = "sweet"
    RunDir(run).write_status(status)
    message = refused(predict, run, *asked)
    assert "trained with trash_seg 0.1.0" in message and "flavour" in message
    (run / "status.json").write_text("{")
    assert "not JSON" in refused(predict, run, *asked)


def test_outputs_are_never_replaced_unasked(toy_run: Path, images: Path, tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "s.csv").write_text("precious")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "precious.png").write_text("precious")
    for output in (("--submission", tmp_path / "s.csv"), ("--masks", tmp_path / "m")):
        assert "--overwrite replaces" in refused(predict, toy_run, "--data", images / "a.jpg", *output)
        assert predict(toy_run, "--data", images / "a.jpg", *output, "--overwrite").code == 0
    assert (tmp_path / "m" / "precious.png").read_text() == "precious"
    assert (tmp_path / "s.csv").read_text().startswith("image_id,PredictionString\na.jpg,")
    assert "its folder" in refused(predict, toy_run, "--data", images / "a.jpg", "--coco", tmp_path / "no" / "c.json")


def test_class_lists_that_differ_are_refused(toy_run: Path, images: Path, tmp_path: Path, predict: Predict) -> None:
    classes = compose_config([]).data.classes
    other = make_run(tmp_path / "runs", f"data.classes=[{','.join([*classes[1:], classes[0]])}]")
    message = refused(predict, toy_run, other, "--data", images / "a.jpg", "--masks", tmp_path / "m")
    assert "their class lists differ" in message


def test_input_that_is_none_is_refused(toy_run: Path, images: Path, tmp_path: Path, predict: Predict) -> None:
    masks = ("--masks", tmp_path / "m")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("[]")
    assert "no image in this folder" in refused(predict, toy_run, "--data", tmp_path / "empty", *masks)
    assert "is not there" in refused(predict, toy_run, "--data", tmp_path / "nowhere", *masks)
    assert "not COCO" in refused(predict, toy_run, "--data", tmp_path / "bad.json", *masks)
    assert "nothing to predict" in refused(predict, toy_run, *masks)
    assert "nothing to write" in refused(predict, toy_run, "--data", images)
    assert "nothing to write" in refused(predict, toy_run, toy_run, "--select", "--data", images)
    assert "two images are called a.jpg" in refused(predict, toy_run, "--data", images, images, *masks)
    escape = {"images": [{"id": 1, "file_name": "../a.jpg", "width": 60, "height": 40}]}
    (images / "escape.json").write_text(json.dumps(escape))
    assert "leaves the data folder" in refused(predict, toy_run, "--data", images / "escape.json", *masks)
    for option in ("--images", "--data-root"):
        assert f"{option} says where" in refused(predict, toy_run, "--data", images, *masks, option, tmp_path)
    assert not (tmp_path / "m").exists()


def test_images_are_never_written_over(toy_run: Path, images: Path, predict: Predict) -> None:
    before = {path: path.read_bytes() for path in images.iterdir()}
    for data in (images, images / "a.jpg"):
        message = refused(predict, toy_run, "--data", data, "--overlays", images, "--overwrite")
        assert f"{images}: holds images that are to be predicted" in message
    assert before == {path: path.read_bytes() for path in images.iterdir()}


def test_scores_without_or_with_two_truths_are_refused(
    toy_run: Path, images: Path, tmp_path: Path, predict: Predict
) -> None:
    assert "need the truth" in refused(predict, toy_run, "--data", images, "--scores", tmp_path / "s.json")
    assert "comes with its own truth" in refused(predict, toy_run, "--split", "val", "--truth", tmp_path / "val.json")


def test_a_split_that_another_run_was_trained_on_is_refused(toy_run: Path, tmp_path: Path, predict: Predict) -> None:
    folds = ("data.annotations=train.json", "data.num_folds=2")
    first, second = (make_run(tmp_path / "runs", *folds, f"data.fold={fold}") for fold in (0, 1))
    asked = ("--split", "val", "--scores", tmp_path / "s.json")
    message = refused(predict, first, second, *asked)
    assert f"these images are {first.name}'s; {second.name} has other data" in message
    assert "give one run, or --data PATH" in message
    assert not (tmp_path / "s.json").exists()
    assert predict(first, *asked).code == 0
    seeds = ("data.annotations=train.json", "data.test_fraction=0.2")
    drawn = [make_run(tmp_path / "runs", *seeds, f"data.split_seed={seed}") for seed in (1, 2)]
    assert "may have been trained on them" in refused(predict, *drawn, "--split", "test", "--masks", tmp_path / "m")


def test_a_test_file_is_the_same_for_runs_of_other_training_data(toy_run: Path, tmp_path: Path, predict) -> None:
    other = make_run(tmp_path / "runs", "data.val=train.json", "data.overlap=smallest_on_top")
    assert "has other data" in refused(predict, toy_run, other, "--split", "val", "--masks", tmp_path / "m")
    completed = predict(toy_run, other, "--split", "test", "--masks", tmp_path / "m")
    assert completed.code == 0, completed.output


def test_what_this_machine_cannot_do_names_the_option(toy_run: Path, images: Path, tmp_path: Path, predict) -> None:
    asked = ("--data", images / "a.jpg", "--masks", tmp_path / "m", "--device", "cpu")
    assert "--precision" in refused(predict, toy_run, *asked, "--precision", "fp16")
    if not torch.cuda.is_available():
        assert "--device cuda" in refused(predict, toy_run, *asked[:-1], "cuda")


class Greedy(torch.nn.Module):
    """Takes more memory than there is, at one size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] == self.size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return torch.zeros(len(images), 12, *images.shape[2:])


@pytest.mark.parametrize("size", [32, 64])
def test_memory_that_is_short_names_the_batch_size(toy_run: Path, size: int) -> None:
    device = torch.device("cpu")
    ensemble = build_ensemble([load_run(toy_run)], device=device, precision=None, tta="none", scales=[1, 2])
    ensemble.members[0].model = Greedy(size)
    for num, way_out in ((3, "give a smaller one"), (1, "give --device cpu")):
        images = {side: torch.zeros(num, 3, side, side, dtype=torch.uint8) for side in ensemble.sizes}
        with pytest.raises(UserError, match=rf"^--batch-size {num}: .*Tried to allocate 20.00 GiB.*{way_out}"):
            ensemble.predict(images, probabilities=False)


@pytest.mark.parametrize(
    ("option", "value", "way_out"),
    [("--scales", "abc", "a factor in (0, 8]"), ("--overlap", "1", "a share in [0, 1)"), ("--window", "1.5", "whole")],
)
def test_a_number_that_is_none_says_what_is_one(
    option: str, value: str, way_out: str, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        predict("run", "--data", "a.jpg", option, value)
    assert f"{value}: give " in (output := capsys.readouterr().err) and way_out in output
