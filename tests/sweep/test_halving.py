"""Successive halving: its decisions, and real sweeps through the command line."""

import csv
import dataclasses
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Train
from tests.sweep.cluster import wait_until
from tests.sweep.test_pool import run, start, statuses
from trash_seg.compose import compose_config
from trash_seg.rundir import TIME_COLUMNS, RunDir
from trash_seg.sweep.halving import Halving, best_until, better_half, rungs
from trash_seg.sweep.plan import Plan, PlannedRun, make_plan

RATES = "optimizer.lr=1e-2,1e-3,1e-4,1e-5"
GRID = (
    "-m", "encoder=resnet18", "decoder=FPN", "training.image_size=32", "runtime.device=cpu", "runtime.num_threads=1",
    "training.epochs=4", "scheduler=cosine", "hydra/sweeper=halving", RATES,
)  # fmt: skip


def test_rungs_double_up_to_the_last_epoch() -> None:
    assert rungs(8, first=1) == [1, 2, 4, 8]
    assert rungs(10, first=1) == [1, 2, 4, 8, 10]
    assert rungs(8, first=3) == [3, 6, 8]
    assert rungs(1, first=1) == [1]
    assert rungs(4, first=9) == [4]
    assert rungs(0, first=1) == []


def test_the_better_half_is_rounded_up_and_ties_go_by_name() -> None:
    assert better_half({"a": 0.1, "b": 0.3, "c": 0.2}) == ["b", "c"]
    assert better_half({"b": 0.1, "a": 0.1}) == ["a"]
    assert better_half({"a": 0.1}) == ["a"]


def test_the_score_is_the_best_so_far() -> None:
    history = [{"miou": "0.1"}, {"miou": "0.4"}, {"miou": "0.3"}, {"miou": "0.9"}]
    assert best_until(history, 3) == 0.4


class Grid:
    """Four configurations whose histories are known, and a launcher that writes as much of them as it is asked for."""

    def __init__(self, folder: Path, curves: dict[str, list[float]]) -> None:
        self.folder, self.curves = folder, curves
        self.launched: list[list[str]] = []
        self.dies: dict[str, int] = {}
        """Curve → the epoch in which it fails."""

    def plan(self, *overrides: str) -> Plan:
        jobs = []
        for number in range(len(self.curves)):
            given = ["decoder=FPN", "training.epochs=4", f"optimizer.lr={number + 1}e-3", *overrides]
            jobs.append((compose_config(given), given))
        return make_plan(jobs, sweep_dir=self.folder)

    def name(self, run: PlannedRun) -> str:
        return list(self.curves)[round(run.config.optimizer.lr * 1000) - 1]

    def launch(self, runs: Sequence[PlannedRun]) -> bool:
        self.launched.append(sorted(self.name(run) for run in runs))
        for planned in runs:
            name, files, epochs = self.name(planned), planned.files, planned.config.training.epochs
            files.path.mkdir(parents=True, exist_ok=True)
            until = max(planned.config.sweep.stop_epoch or epochs, len(files.read_history()))
            until = min(until, self.dies.get(name, 99) - 1)
            state = "failed" if until + 1 == self.dies.get(name) else "done" if until == epochs else "pruned"
            config = dataclasses.asdict(planned.config)
            status = {"state": state, "config": config, "hash": planned.config.hash, "epoch": until, "error": None}
            files.write_status({**status, "seconds": 1.0})
            files.write_history([{"epoch": e + 1, "miou": self.curves[name][e]} for e in range(until)])
        return True


CURVES = {"a": [0.4] * 4, "b": [0.3] * 4, "c": [0.2] * 4, "d": [0.1] * 4}


def test_portions_and_what_is_dropped(tmp_path: Path) -> None:
    grid, halving = Grid(tmp_path, CURVES), Halving(first_epochs=1)
    halving.work(grid.plan(), grid.launch)
    assert grid.launched == [["a", "b", "c", "d"], ["a", "b"], ["a"]]
    assert len(halving.dropped) == 3
    halving.work(grid.plan(), grid.launch)
    assert grid.launched[3:] == [[], [], []]


def test_a_run_that_fails_later_still_counts_where_it_was_good(tmp_path: Path) -> None:
    """Else the same command, given again, would take up what the first one dropped."""
    grid = Grid(tmp_path, CURVES)
    grid.dies = {"b": 2}
    Halving(first_epochs=1).work(grid.plan(), grid.launch)
    assert grid.launched == [["a", "b", "c", "d"], ["a", "b"], ["a"]]
    Halving(first_epochs=1).work(grid.plan(), grid.launch)
    assert grid.launched[3:] == [[], [], []]
    grid.dies = {}
    Halving(first_epochs=1).work(grid.plan("sweep.retry_failed=true"), grid.launch)
    assert grid.launched[6:] == [["b"], ["b"], []]


def test_a_stop_ends_the_rungs(tmp_path: Path) -> None:
    grid, halving = Grid(tmp_path, CURVES), Halving(first_epochs=1)
    halving.work(grid.plan(), lambda runs: grid.launch(runs) and len(grid.launched) < 2)
    assert grid.launched == [["a", "b", "c", "d"], ["a", "b"]]
    assert len(halving.dropped) == 2


def test_an_unreadable_directory_fails_alone(tmp_path: Path) -> None:
    grid = Grid(tmp_path, CURVES)
    Halving(first_epochs=1).work(grid.plan(), lambda runs: grid.launch(runs) and False)
    (victim,) = (run for run in grid.plan().runs if grid.name(run) == "d")
    victim.files.status_path.write_text("{")
    Halving(first_epochs=1).work(grid.plan(), grid.launch)
    assert grid.launched[1:] == [[], ["a", "b"], ["a"]]


def untimed(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in RunDir(path).read_history()]


def by_rate(folder: Path) -> dict[float, tuple[str, int]]:
    return {s["config"]["optimizer"]["lr"]: (s["state"], s["epoch"]) for s in statuses(folder).values()}


def check_finished(folder: Path) -> Path:
    """Two runs of one epoch, one of two, one of four, and none dropped that was better. Returns the last one's."""
    ended = by_rate(folder)
    assert sorted(ended.values()) == [("done", 4), ("pruned", 1), ("pruned", 1), ("pruned", 2)], ended
    paths = {name: folder / "outputs" / "default" / name for name in statuses(folder)}
    first = {name: float(untimed(path)[0]["miou"]) for name, path in paths.items()}
    went_on = {name for name, status in statuses(folder).items() if status["epoch"] > 1}
    assert min(first[name] for name in went_on) >= max(first[name] for name in paths.keys() - went_on)
    (winner,) = (paths[name] for name, status in statuses(folder).items() if status["state"] == "done")
    return winner


@pytest.mark.slow
def test_a_sweep_by_halving(tmp_path: Path) -> None:
    answer = run(*GRID, cwd=tmp_path)
    assert answer.code == 0, answer.output
    winner = check_finished(tmp_path)
    for line in (
        "4 to epoch 1, 2 to epoch 2, 1 to epoch 4; 8 of 16 epochs",
        "at epoch 1 (4 of 4): ",
        "pruned at epoch 1: ",
        "1 done, 3 pruned, 0 failed",
    ):
        assert line in answer.output
    # The same command again trains nothing.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("outputs/default/*/history.csv")}
    again = run(*GRID, cwd=tmp_path)
    assert (again.code, "1 done, 3 pruned" in again.output) == (0, True), again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # The report shows what was pruned, and does not rank it.
    with (tmp_path / "outputs" / "default" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["state"] for row in rows) == ["done", "pruned", "pruned", "pruned"]
    assert [bool(row["tier"]) for row in rows] == [row["state"] == "done" for row in rows]
    assert any("epoch 1 of 4" in row["flags"] for row in rows)
    # The winner equals a full run, and a full sweep takes the pruned ones up where they stand.
    halved = untimed(winner)
    shutil.rmtree(winner)
    grid = run(*GRID[:-2], "hydra/sweeper=grid", RATES, cwd=tmp_path)
    assert grid.code == 0, grid.output
    assert untimed(winner) == halved
    assert set(by_rate(tmp_path).values()) == {("done", 4)}
    assert sorted(status["attempts"] for status in statuses(tmp_path).values()) == [1, 2, 2, 3]


@pytest.mark.slow
def test_an_interrupted_halving_goes_on(tmp_path: Path) -> None:
    process = start(*GRID, "hydra.launcher.num_jobs=1", cwd=tmp_path)
    wait_until(lambda: len(statuses(tmp_path)) >= 2, seconds=120, what="a second run")
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert "this goes on: python -m trash_seg.train" in output
    answer = run(*GRID, cwd=tmp_path)
    assert answer.code == 0, answer.output
    check_finished(tmp_path)


@pytest.mark.slow
def test_halving_works_with_hydras_own_launcher(tmp_path: Path) -> None:
    answer = run(*GRID, "hydra/launcher=basic", cwd=tmp_path)
    assert answer.code == 0, answer.output
    check_finished(tmp_path)


def test_what_halving_cannot_compare(train: Train) -> None:
    for overrides, words in (
        (("training.epochs=8,10",), "training.epochs=8, 10: halving compares runs of one length"),
        (("training.image_size=32,64",), "training.image_size=32, 64: halving compares runs of one image size"),
        (("data.split_seed=1,2",), "data.split_seed=1, 2: halving compares runs of one dataset and split"),
        (("sweep.stop_epoch=1",), "sweep.stop_epoch: hydra/sweeper=halving sets it itself"),
        (("hydra.sweeper.first_epochs=0",), "hydra.sweeper.first_epochs=0: must be >= 1"),
    ):
        answer = train("-m", "hydra/sweeper=halving", "encoder=resnet18", "decoder=FPN", "seed=1,2", *overrides)
        assert answer.code == 2, answer.output
        assert words in answer.output
        assert "Traceback" not in answer.output
