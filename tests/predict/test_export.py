"""`python -m trash_seg.export`."""

import json
import sys
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
import torch

from tests.conftest import ROOT, Completed
from tests.predict.conftest import make_run, random_image
from tests.predict.test_decoders import SETTINGS
from trash_seg.export import main
from trash_seg.inference import verify
from trash_seg.inference.exporting import Deployed
from trash_seg.inference.load import load_run
from trash_seg.palette import palette

CLASSES = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        random_image(folder / f"{name}.jpg", 90, 70)
    return folder


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> Completed:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Completed(code, captured.out + captured.err)


def onnx_logits(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits, to float32's accuracy at their scale."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.std()))


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def larger_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("larger_run"), "encoder=resnet18", "training.image_size=64")


@pytest.mark.slow
def test_an_onnx_file_is_the_run_at_any_batch_and_size(larger_run: Path, images: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "model.onnx"
    completed = export(capsys, larger_run, "--format", "onnx", "--data", images, "--output", path)
    assert completed.code == 0, completed.output
    assert "labels equal on 100.000 % of the pixels of 3 images" in completed.output
    assert "onnxruntime" in completed.output and "images/s" in completed.output
    run = load_run(larger_run)
    reference = Deployed(run.model).eval()
    for shape in ((1, 3, 64, 64), (5, 3, 64, 64), (2, 3, 96, 64)):
        with torch.no_grad():
            expected = reference(pixels(*shape))
        assert_same(onnx_logits(path, pixels(*shape)), expected)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == run.config.data.classes
    assert json.loads(about["colors"]) == [list(color) for color in palette(CLASSES)]
    assert about["run"] == larger_run.name and about["image_size"] == "64"


@pytest.mark.slow
def test_a_torch_program_is_the_run_and_loads_without_this_package(larger_run, images, tmp_path, capsys) -> None:
    path = tmp_path / "model.pt2"
    completed = export(capsys, larger_run, "--format", "torch", "--data", images, "--output", path)
    assert completed.code == 0, completed.output
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(json.loads(extra["metadata.json"])["classes"])[5] == "Metal"
    with torch.no_grad():
        expected = Deployed(load_run(larger_run).model).eval()(pixels(3, 3, 64, 96))
        assert_same(program.module()(pixels(3, 3, 64, 96)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_what_is_left_out_of_small_maps_is_there_in_large_ones(target, images, tmp_path, capsys) -> None:
    """At the training size all outer weights of the dilated convolutions meet padding, and a CPU leaves them out."""
    run = make_run(tmp_path / "runs", "decoder=DeepLabV3Plus", "training.image_size=64")
    path = tmp_path / "model.pt2"
    completed = export(capsys, run, "--format", target, "--data", images, "--output", path)
    assert completed.code == 0, completed.output
    assert "height and width are fixed" not in completed.output
    reference = Deployed(load_run(run).model).eval()
    exported = torch.export.load(path).module() if target == "torch" else partial(onnx_logits, path)
    for side in (64, 640):
        with torch.no_grad():
            assert_same(exported(pixels(1, 3, side, side)), reference(pixels(1, 3, side, side)))


@pytest.mark.slow
def test_a_pair_of_one_size_is_exported_at_that_size(toy_run: Path, images: Path, tmp_path: Path, capsys) -> None:
    """At 32 px the smallest map of this pair is one pixel, which a tracer takes for a constant."""
    path = tmp_path / "model.pt2"
    completed = export(capsys, toy_run, "--format", "torch", "--data", images, "--output", path, "--num-images", 1)
    assert completed.code == 0, completed.output
    assert "height and width 32 px" in completed.output
    assert "height and width are fixed: " in completed.output
    with torch.no_grad():
        assert torch.export.load(path).module()(pixels(3, 3, 32, 32)).shape == (3, CLASSES, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", sorted(path.stem for path in (ROOT / "conf" / "decoder").glob("*.yaml")))
def test_every_decoder_is_exported_at_any_size_or_says_why(decoder, images, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(verify, "NUM_REPEATS", 1)  # the seconds of DPT are not what is tested
    settings = SETTINGS.get(decoder, ("encoder=resnet18",))
    run = make_run(tmp_path / "runs", *settings, f"decoder={decoder}")
    path = tmp_path / "model.onnx"
    completed = export(capsys, run, "--format", "onnx", "--data", images, "--output", path)
    assert completed.code == 0, completed.output
    trained = load_run(run)
    size = trained.config.training.image_size
    fixed = "height and width are fixed: " in completed.output
    others = pixels(2, 3, size, size if fixed else 2 * size)
    with torch.no_grad():
        assert_same(onnx_logits(path, others), Deployed(trained.model).eval()(others))


def test_what_cannot_be_exported_is_one_line(toy_run: Path, images: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("precious")
    asked = (toy_run, "--format", "onnx", "--data", images, "--output", path)
    assert "--overwrite replaces it" in export(capsys, *asked).output
    assert path.read_text() == "precious"
    completed = export(capsys, tmp_path, *asked[1:], "--overwrite")
    assert completed.code == 2 and "no run" in completed.output
    with monkeypatch.context() as broken:
        broken.setattr("torch.export.export", lambda *_, **__: 1 / 0)
        completed = export(capsys, *asked, "--overwrite")
    assert completed.code == 2
    refused = "resnet18 × Unet cannot be exported: torch.export refuses it: division by zero"
    assert completed.output == f"error: {refused}\n"
    assert path.read_text() == "precious"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    completed = export(capsys, *asked, "--overwrite")
    assert completed.code == 2
    assert completed.output == "error: --format onnx needs onnxscript: pip install 'trash_seg[export]'\n"
