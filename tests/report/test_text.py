"""Names are shown as text, and what does not exist is empty."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.simulate import write_run, write_sweep
from tests.report.test_rank import build
from trash_seg.report import text
from trash_seg.report.advice import what_next

EVIL = '<script>alert("1")</script>'


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_text_that_a_spreadsheet_would_run_is_defused(name: str) -> None:
    assert text.cell(name) == f"'{name}"


@pytest.mark.parametrize(
    ("value", "cell"), [(None, ""), (-0.5, "-0.5"), (0.1 + 0.2, "0.30000000000000004"), ("a-b", "a-b")]
)
def test_numbers_are_exact_and_none_is_empty(value: object, cell: str) -> None:
    assert text.cell(value) == cell


def test_the_csv_survives_every_name(tmp_path: Path) -> None:
    names = [EVIL, "=cmd|' /C calc'!A0", 'com,ma "quoted"', "línea\nnueva", "混凝土"]
    for index, name in enumerate(names):
        write_run(tmp_path, encoder=name, decoder="=Unet", hash=f"{index:08x}", name=f"run-Unet-s21-{index:08x}")
    rows = list(csv.DictReader(io.StringIO(text.leaderboard_csv(build(tmp_path)))))
    assert sorted(row["encoder"].removeprefix("'") for row in rows) == sorted(names)
    assert not [value for row in rows for value in row.values() if value[:1] in tuple("=+@\t\r") or value[:2] == "-c"]


def test_the_csv_has_the_columns_and_leaves_out_what_does_not_exist(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="one", hash="00000001")
    write_run(tmp_path, encoder="none", hash="00000002", finished=0, status={"state": "failed", "parameters": None})
    header, *rows = list(csv.reader(io.StringIO(text.leaderboard_csv(build(tmp_path)))))
    assert " ".join(header[:16]) == (
        "tier rank rank_low rank_high encoder decoder weights config num_seeds miou miou_sd ci_low ci_high miou_last "
        "miou_image miou_batch"
    )
    assert header[16:21] == ["iou_Background", "iou_Paper", "iou_Metal", "iou_Glass", "iou_Plastic"]
    assert header[21:26] == ["parameters", "gflops", "train_seconds", "state", "flags"]
    one, none = (dict(zip(header, row, strict=True)) for row in rows)
    assert one["miou_sd"] == one["iou_Plastic"] == ""
    assert float(one["ci_low"]) < float(one["miou"]) < float(one["ci_high"])
    empty = [key for key, value in none.items() if value == ""]
    assert {"tier", "rank", "miou", "ci_low", "miou_last", "iou_Paper", "parameters", "group"} <= set(empty)
    assert (none["state"], none["num_seeds"]) == ("failed", "0")


def test_the_markdown_has_the_form_of_an_experiment_log(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="resnet18", decoder="Unet", miou=0.4, epochs=3)
    lines = text.report_markdown(build(tmp_path), title="Sweep", steps=[]).splitlines()
    start = lines.index("<details><summary>resnet18 Unet, seed 21, done, mIoU 0.4000</summary>")
    section = lines[start : lines.index("</details>", start)]
    assert section[2:5] == ["- encoder : resnet18", "- decoder : Unet", "- encoder weights : none"]
    assert section[5].startswith("- spent time : ")
    assert section[6].startswith("- valid mIoU : \\[0.")
    assert section[6].count(",") == 2


def test_markdown_shows_markup_as_text(tmp_path: Path) -> None:
    write_run(tmp_path, encoder=EVIL, decoder="a|b*c*", name="x-Unet-s21-0123abcd")
    page = text.report_markdown(build(tmp_path), title=EVIL, steps=[])
    assert "<script" not in page
    assert "a|b" not in page.replace("<summary>&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; a|b", "")
    assert "a\\|b\\*c\\*" in page


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_console_shows_markup_and_control_characters_as_text(tmp_path: Path, width: int) -> None:
    write_run(tmp_path, encoder="[red]x[/red]", decoder="\x1b[31mUnet", name="x-Unet-s21-0123abcd")
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    text.print_console(build(tmp_path), console)
    shown = console.file.getvalue()
    assert "\x1b[31m" not in shown
    assert "[red]" in shown.replace("\n", "")


def test_a_long_leaderboard_is_cut_and_says_so(tmp_path: Path) -> None:
    write_sweep(tmp_path, means=[0.4] * 33, num_seeds=1)
    console = Console(file=io.StringIO(), width=100)
    text.print_console(build(tmp_path), console)
    assert "… and 3 more rows in leaderboard.csv" in console.file.getvalue()


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([0.4], "the only configuration with a result"),
        ([0.4, 0.6], "is better than the other 1"),
        ([0.4, 0.4], "All 2 configurations are tied"),
        ([0.6, 0.6, 0.3], "2 of 3 configurations are tied for best"),
    ],
)
def test_the_verdict(tmp_path: Path, means: list[float], verdict: str) -> None:
    write_sweep(tmp_path, means=means)
    board = build(tmp_path)
    assert verdict in text.verdict(board)
    assert "measured: pooled" in text.noise_sentence(board.groups[0])


def test_the_verdict_of_a_group_with_assumed_noise_says_so(tmp_path: Path) -> None:
    for fold, miou in enumerate((0.4, 0.5, 0.6)):
        data = {"state": "done", "data": {"fingerprint": f"fold {fold}"}}
        for encoder in ("a", "b")[: 2 - fold]:
            write_run(
                tmp_path, encoder=encoder, hash=f"{fold:07x}{encoder}", miou=miou + 0.1 * (encoder == "b"), status=data
            )
    board = build(tmp_path)
    expected = "Group A, one of 2: b Unet is better than the other 1: mIoU 0.5000, alone in tier 1"
    assert text.verdict(board) == f"{expected} (the noise is assumed, not measured)."


@pytest.mark.parametrize("rank_by", ["best", "last"])
def test_the_interval_stands_beside_the_score_that_it_is_of(tmp_path: Path, rank_by: str) -> None:
    run = write_run(tmp_path, miou=0.46)
    status = run.read_status()
    assert status is not None
    status["last"]["miou"] = 0.30
    run.write_status(status)
    lines = text.report_markdown(build(tmp_path, rank_by=rank_by), title="Sweep", steps=[]).splitlines()
    header, _, row = (line.split(" | ") for line in lines[lines.index("## Leaderboard") + 2 :][:3])
    at = header.index("95 % interval")
    low, high = map(float, row[at].split("–"))
    assert header[at - 1] == f"mIoU {rank_by}"
    assert low < float(row[at - 1]) < high


def test_what_next_stands_in_the_markdown(tmp_path: Path) -> None:
    write_sweep(tmp_path, means=[0.40, 0.41], seed=2)
    board = build(tmp_path)
    page = text.report_markdown(board, title="Sweep", steps=what_next(board))
    assert "## What next" in page
