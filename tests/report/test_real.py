"""The report of a run that the trainer itself left."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_module
from tests.report.test_rank import build
from trash_seg.report.advice import command
from trash_seg.report.board import Board
from trash_seg.report.images import bootstrap_images
from trash_seg.report.page import Content, render


@pytest.fixture
def board(finished_run: Path) -> Board:
    return build(finished_run.parent)


def test_all_that_a_run_leaves_is_shown(board: Board) -> None:
    source, missing = render(Content("Sweep", board, []))
    assert missing == []
    assert source.count('<img class="mask"') == 2 * 12
    (row,) = board.rows
    assert (row.state, row.encoder, row.decoder, row.pretraining, row.flags) == (
        "done", "resnet18", "Unet", "none", ["sigma assumed", "one seed"],
    )  # fmt: skip
    assert len(row.iou) == 12
    assert None not in (row.parameters, row.seconds, row.mean("miou_image"), row.mean("miou_batch", "last"))


def test_the_stored_counts_give_the_recorded_score(board: Board) -> None:
    ((noise,), left_out) = bootstrap_images(board.rows)
    assert left_out == []
    assert noise.row.score is not None
    assert noise.low < noise.row.score < noise.high


@pytest.mark.slow
def test_the_command_that_is_advised_trains_just_those_seeds(
    board: Board, finished_sweep: Path, tmp_path: Path
) -> None:
    sweep = shutil.copytree(finished_sweep / "outputs", tmp_path / "outputs") / "default"
    program, *arguments = shlex.split(command(board.rows[0], 2))
    assert (program, arguments[:2]) == ("python", ["-m", "trash_seg.train"])
    completed = run_module("trash_seg.train", *arguments[2:], "hydra.sweeper.dry_run=true", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    hash = board.rows[0].config
    plan = (sweep / "plan.csv").read_text()
    assert [line.split(",")[0] for line in plan.splitlines()[1:]] == [f"resnet18-Unet-s{s}-{hash}" for s in (22, 23)]
    assert "2 to run" in completed.stdout
