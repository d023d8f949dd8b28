"""Runs to predict with, made without training, and the command line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.conftest import Completed, widen
from trash_seg.compose import compose_config
from trash_seg.models.build import build_model
from trash_seg.predict import main
from trash_seg.rundir import RunDir

Predict = Callable[..., Completed]


def make_run(folder: Path, *overrides: str, state: str = "done") -> Path:
    """A run's directory as training leaves it, with the weights it began with."""
    config = compose_config(["training.image_size=32", "runtime=cpu", *overrides])
    files = RunDir(folder / config.run_id)
    files.path.mkdir(parents=True)
    torch.manual_seed(config.seed)
    model = build_model(config)
    with torch.no_grad():  # untrained weights see one class everywhere
        for parameter in model.segmentation_head.parameters():
            parameter.mul_(20)
    best = {"epoch": 1, "miou": 0.5}
    files.write_status(
        {
            "run": config.run_id, "state": state, "config": dataclasses.asdict(config), "best": best,
            "environment": {"trash_seg": "0.1.0"},
        }
    )  # fmt: skip
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, files.best_path)
    return files.path


def random_image(path: Path, width: int, height: int, *, mode: str = "RGB", **options: object) -> None:
    """Coarse coloured noise, as a file."""
    rng = np.random.default_rng((width, height))
    pixels = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).convert(mode).save(path, **options)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("toy_run"), "runtime.num_threads=1")


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """`python -m trash_seg.predict` on the CPU, without the seconds that a new process takes to import torch."""

    def run(*arguments: object) -> Completed:
        widen(monkeypatch)
        threads = torch.get_num_threads()
        try:
            device = () if "--device" in arguments else ("--device", "cpu")
            code = main([str(argument) for argument in (*arguments, *device)])
        finally:
            torch.set_num_threads(threads)
        captured = capsys.readouterr()
        return Completed(code, captured.out + captured.err)

    return run
