"""Saving beside the training, as on a GPU: the same files as one after the other."""

import errno
import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.sweep.cluster import wait_until
from trash_seg.compose import compose_config
from trash_seg.data.dataset import open_dataset
from trash_seg.engine import checkpoint, fit
from trash_seg.engine.fit import Fit
from trash_seg.engine.loss import build_loss
from trash_seg.engine.step import Step
from trash_seg.errors import DivergedError
from trash_seg.models.build import build_model
from trash_seg.rundir import TIME_COLUMNS, RunDir
from trash_seg.stop import StopRequest
from trash_seg.training import build_loaders

CPU = torch.device("cpu")


def make_fit(path: Path, announced: list[list[int]], *, epochs: int = 2, num_workers: int = 0) -> Fit:
    path.mkdir(exist_ok=True)
    settings = [*TINY, "decoder=FPN", "training.ema_decay=0.9", f"training.epochs={epochs}"]
    settings += [f"runtime.num_workers={num_workers}"]
    config = compose_config(settings)
    dataset = open_dataset(config.data, image_size=config.training.image_size, runtime=config.runtime)
    train, val = build_loaders(config, dataset, CPU)
    torch.manual_seed(0)
    step = Step(
        build_model(config), config=config, criterion=build_loss(config.loss, pixels=None, device=CPU),
        steps_per_epoch=train.num_batches, device=CPU,
    )  # fmt: skip
    return Fit(
        step, config=config, train=train, val=val, classes=dataset.classes, val_names=dataset.val.names,
        run_dir=RunDir(path), stop=StopRequest(),
        on_save=lambda _position, rows: announced.append([int(row["epoch"] or 0) for row in rows]),
    )  # fmt: skip


def history(run_dir: RunDir) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run_dir.read_history()]


def state(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(path.read_bytes()[checkpoint.DIGEST_LENGTH + 1 :]))
    return loaded


@pytest.mark.slow
def test_what_is_saved_is_the_epoch_as_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch's checkpoint is written only once the second is trained."""
    announced: list[list[int]] = []
    make_fit(tmp_path / "plain", announced).run()
    monkeypatch.setattr(fit, "SAVES_BESIDE_TRAINING", ("cpu",))
    running = make_fit(tmp_path / "beside", announced)
    write, num_steps = checkpoint.write, 2 * running.train_loader.num_batches

    def write_late(run_dir: RunDir, state: dict[str, Any]) -> None:
        wait_until(lambda: running.step.num_done == num_steps, seconds=120, what="the second epoch")
        write(run_dir, state)

    monkeypatch.setattr(checkpoint, "write", write_late)
    running.run()
    assert announced == [[1], [2], [1], [2]]
    plain, beside = (RunDir(tmp_path / name) for name in ("plain", "beside"))
    assert history(plain) == history(beside)
    best = load_file(plain.best_path)
    assert all(torch.equal(tensor, best[name]) for name, tensor in load_file(beside.best_path).items())
    for paths in ((plain.previous_path, beside.previous_path), (plain.last_path, beside.last_path)):
        one, other = map(state, paths)
        assert one["num_steps"] == other["num_steps"]
        for part in ("model", "ema"):
            assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())


@pytest.mark.slow
def test_epochs_that_end_during_a_save_are_saved_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[list[int]] = []
    make_fit(tmp_path / "plain", announced, epochs=4).run()
    monkeypatch.setattr(fit, "SAVES_BESIDE_TRAINING", ("cpu",))
    running = make_fit(tmp_path / "beside", announced, epochs=4)
    write, num_steps = checkpoint.write, 3 * running.train_loader.num_batches

    def write_late(run_dir: RunDir, state: dict[str, Any]) -> None:
        wait_until(lambda: running.step.num_done >= num_steps + 1, seconds=120, what="the fourth epoch's first step")
        write(run_dir, state)

    monkeypatch.setattr(checkpoint, "write", write_late)
    running.run()
    assert announced[4:] == [[1], [2, 3, 4]]
    plain, beside = (RunDir(tmp_path / name) for name in ("plain", "beside"))
    assert history(plain) == history(beside)
    assert state(plain.last_path)["num_steps"] == state(beside.last_path)["num_steps"]
    best = load_file(plain.best_path)
    assert all(torch.equal(tensor, best[name]) for name, tensor in load_file(beside.best_path).items())


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "beside"), [(0, [True, False]), (1, [False, False])])
def test_workers_are_not_forked_while_a_thread_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int, beside: list[bool]
) -> None:
    monkeypatch.setattr(fit, "SAVES_BESIDE_TRAINING", ("cpu",))
    running, seen, write = make_fit(tmp_path, [], num_workers=num_workers), [], checkpoint.write

    def note(run_dir: RunDir, state: dict[str, Any]) -> None:
        seen.append(threading.current_thread() is not threading.main_thread())
        write(run_dir, state)

    monkeypatch.setattr(checkpoint, "write", note)
    running.run()
    assert seen == beside


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_run_dir: RunDir, _state: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fit, "SAVES_BESIDE_TRAINING", ("cpu",))
    monkeypatch.setattr(checkpoint, "write", fail)
    announced: list[list[int]] = []
    running = make_fit(tmp_path, announced)
    with pytest.raises(OSError, match="No space"):
        running.run()
    assert announced == []


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one(tmp_path: Path) -> None:
    running, files = make_fit(tmp_path, []), RunDir(tmp_path)
    for step in (1, 2):
        checkpoint.write(files, checkpoint.collect(running.step, {"step": step}))
    whole = files.previous_path.read_bytes()
    files.last_path.write_bytes(b"")
    assert checkpoint.load(files, step=running.step) == {"step": 1}
    checkpoint.write(files, checkpoint.collect(running.step, {"step": 3}))
    assert files.previous_path.read_bytes() == whole


def test_an_epoch_is_recorded_though_the_next_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SAVES_BESIDE_TRAINING", ("cpu",))
    announced: list[list[int]] = []
    running = make_fit(tmp_path, announced)
    train = running.train

    def train_or_diverge() -> float:
        if running.position.epoch == 1:
            raise DivergedError("NaN")
        return train()

    monkeypatch.setattr(running, "train", train_or_diverge)
    with pytest.raises(DivergedError):
        running.run()
    assert announced == [[1]] and len(history(RunDir(tmp_path))) == 1
