"""Rows, groups, ranks and flags."""

from pathlib import Path

import pytest

from tests.report.simulate import CLASSES, configuration, write_run, write_sweep
from trash_seg.report import rank
from trash_seg.report.board import Board, Row
from trash_seg.report.collect import collect
from trash_seg.report.noise import MARGIN


def build(sweep_dir: Path, *, rank_by: str = "best", sigma: float | None = None, margin: float = MARGIN) -> Board:
    return rank.build(collect(sweep_dir), rank_by=rank_by, sigma=sigma, margin=margin)


def named(board: Board, encoder: str) -> Row:
    (row,) = [row for row in board.rows if row.encoder == encoder]
    return row


def test_seeds_are_replicates_of_one_row(tmp_path: Path) -> None:
    for seed, miou in ((21, 0.40), (22, 0.42), (23, 0.44)):
        write_run(tmp_path, seed=seed, miou=miou)
    (row,) = build(tmp_path).rows
    assert row.standing is not None
    assert [run.seed for run in row.done] == [21, 22, 23]
    assert row.mean("miou") == pytest.approx(0.42)
    assert row.standing.sd == pytest.approx(0.02)
    assert row.flags == []


def test_within_a_tier_the_cheaper_is_first_and_ranks_go_by_the_mean(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="dear", hash="00000001", miou=0.41, parameters=60_000_000)
    write_run(tmp_path, encoder="cheap", hash="00000002", miou=0.40, parameters=5_000_000)
    write_run(tmp_path, encoder="bad", hash="00000003", miou=0.20, parameters=1_000_000)
    rows = build(tmp_path).rows
    assert [(row.encoder, row.standing.tier, row.standing.rank) for row in rows if row.standing] == [
        ("cheap", 1, 2),
        ("dear", 1, 1),
        ("bad", 2, 3),
    ]
    assert all("sigma assumed" in row.flags and "one seed" in row.flags for row in rows)


def test_rank_by_last_ranks_by_the_last_epoch_and_keeps_both_numbers(tmp_path: Path) -> None:
    for encoder, final in (("peaks", 0.30), ("lasts", 0.45)):
        run = write_run(tmp_path, encoder=encoder, hash=f"0000000{len(encoder)}{encoder[0] == 'p':d}"[-8:], miou=0.46)
        status = run.read_status()
        assert status is not None
        status["last"]["miou"] = final
        run.write_status(status)
    by_best, by_last = build(tmp_path), build(tmp_path, rank_by="last")
    assert by_last.groups[0].leader.encoder == "lasts"
    assert named(by_last, "peaks").mean("miou") == pytest.approx(0.46)
    assert named(by_last, "peaks").score == pytest.approx(0.30)
    assert named(by_best, "peaks").score == pytest.approx(0.46)


def test_seeds_that_agree_too_well_and_seeds_that_collapse_are_flagged(tmp_path: Path) -> None:
    write_sweep(tmp_path, means=[0.40] * 8, num_seeds=3, sigma=0.004)
    for encoder, mious in (("flat", (0.08, 0.0801, 0.0802)), ("collapses", (0.38, 0.39, 0.05))):
        for seed, miou in enumerate(mious):
            write_run(tmp_path, encoder=encoder, hash=f"{len(encoder):07x}f", seed=seed, miou=miou)
    board = build(tmp_path)
    assert named(board, "flat").flags == ["its seeds agree to 0.0001: did it learn? Not used for sigma"]
    (flag,) = named(board, "collapses").flags
    assert flag.startswith("its seeds spread by 0.1935, sigma is 0.00")
    assert sum(bool(row.flags) for row in board.rows) == 2


@pytest.mark.parametrize("state", ["running", "failed", "interrupted", "diverged"])
def test_what_is_not_done_is_listed_but_never_ranked(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, encoder="done", hash="00000001", miou=0.3)
    write_run(tmp_path, encoder="other", hash="00000002", miou=0.9, finished=3, status={"state": state, "error": "why"})
    board = build(tmp_path)
    row = named(board, "other")
    assert (row.standing, row.group, row.score, row.state) == (None, "", None, state)
    assert board.rows[-1] is row
    expected = "why" if state in ("failed", "diverged") else f"{state}: seed 21, epoch 3 of 8, best so far"
    assert expected in row.flags[0]


def test_a_failed_seed_is_flagged_on_the_row_of_the_others(tmp_path: Path) -> None:
    write_run(tmp_path, seed=21)
    write_run(tmp_path, seed=22)
    write_run(tmp_path, seed=23, status={"state": "failed", "error": "why", "data": None}, finished=0)
    (row,) = build(tmp_path).rows
    assert (row.state, len(row.done), len(row.runs)) == ("done", 2, 3)
    assert "1 of 3 seeds failed" in row.flags


def changed(**settings) -> dict:
    config = configuration(encoder="odd", decoder="Unet")
    for key, value in settings.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return config


@pytest.mark.parametrize(
    ("label", "odd"),
    [
        ("classes", {"config": changed(data__classes=[*CLASSES[:-1], "Wood"])}),
        ("class map", {"config": changed(data__class_of={"UNKNOWN": "Background"})}),
        ("data", {"status": {"state": "done", "data": {"fingerprint": "0ther"}}}),
        ("data settings", {"config": changed(data__overlap="smallest_on_top")}),
        ("image size", {"config": changed(training__image_size=128)}),
        ("epochs", {"epochs": 12}),
        ("pretrained", {"config": changed(encoder__weights="imagenet")}),
        ("software", {"status": {"state": "done", "environment": {"torch": "2.12.0"}}}),
    ],
)
def test_what_is_not_comparable_is_flagged_and_ranked_by_itself(tmp_path: Path, label: str, odd: dict) -> None:
    write_sweep(tmp_path, means=[0.40, 0.41], num_seeds=2)
    write_run(tmp_path, encoder="odd", hash="0000000f", miou=0.9, **odd)
    board = build(tmp_path)
    row = named(board, "odd")
    assert [len(group.rows) for group in board.groups] == [2, 1]
    assert (row.group, row.standing and row.standing.rank) == ("B", 1)
    assert f"not comparable with group A: other {label}" in row.flags
    assert board.groups[0].leader.encoder != "odd"


def test_replicates_of_one_configuration_under_other_software_are_two_rows(tmp_path: Path) -> None:
    write_run(tmp_path, seed=21)
    write_run(tmp_path, seed=22)
    write_run(tmp_path, seed=23, status={"state": "done", "environment": {"torch": "2.12.0"}})
    rows = build(tmp_path).rows
    assert sorted((row.group, len(row.done)) for row in rows) == [("A", 2), ("B", 1)]
    assert len({row.config for row in rows}) == 1


def test_settings_that_may_differ_stay_in_one_group(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="a", hash="00000001", config=changed(data__root="/elsewhere"))
    write_run(tmp_path, encoder="b", hash="00000002", config=changed(optimizer__lr=0.1, runtime__device="cuda"))
    assert len(build(tmp_path).groups) == 1


def test_without_a_result_nothing_is_ranked(tmp_path: Path) -> None:
    write_run(tmp_path, finished=0, status={"state": "running", "data": None})
    board = build(tmp_path)
    assert (board.groups, len(board.rows)) == ([], 1)


def test_groups_beyond_z_have_two_letters() -> None:
    assert [rank._letters(i) for i in (0, 25, 26, 27, 51, 52)] == ["A", "Z", "AA", "AB", "AZ", "BA"]
