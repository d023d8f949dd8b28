"""The report's command line, on sweeps with known truth."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_module
from tests.report.simulate import write_run, write_sweep
from trash_seg.report import write_report
from trash_seg.report.__main__ import main


def leaderboard(sweep_dir: Path) -> list[dict[str, str]]:
    with (sweep_dir / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("nowhere", "no such folder"),
        (".", "sweeps are: sweep"),
        ("sweep/a_run", "it is itself a run"),
        ("none", "no run"),
    ],
)
def test_a_folder_without_runs_is_one_line_and_exit_code_2(
    tmp_path: Path, folder: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "sweep", name="a_run")
    (tmp_path / "none").mkdir()
    assert main([str(tmp_path / folder)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert problem in line


def test_the_command_writes_all_outputs_and_names_the_page(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", means=[0.40, 0.45, 0.38])
    completed = run_module("trash_seg.report", "sweep", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    assert completed.stdout.splitlines()[-1] == "Report: sweep/report.html"
    assert "encoder00 FPN is better than the other 2" in completed.stdout
    rows = leaderboard(tmp_path / "sweep")
    assert [(row["tier"], row["rank"], row["decoder"]) for row in rows] == [
        ("1", "1", "FPN"), ("2", "2", "Unet"), ("3", "3", "DeepLabV3Plus"),
    ]  # fmt: skip


def test_neither_torch_nor_hydra_is_imported() -> None:
    code = "import sys, trash_seg.report.__main__; print(sorted({'torch', 'hydra', 'omegaconf'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "sweep", means=[0.4])
    (tmp_path / "taken").write_text("")
    assert main([str(tmp_path / "sweep"), "--output", str(tmp_path / "taken")]) == 2
    assert "--output chooses another folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--sigma", "0"], ["--margin", "1"], ["--sigma", "much"], ["--rank-by", "luck"]])
def test_a_value_outside_its_range_is_refused(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *option])
    assert option[0] in capsys.readouterr().err


def test_an_assumed_sigma_and_a_margin_change_the_tiers(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_sweep(sweep, means=[0.40, 0.45])
    tiers = []
    for options in ([], ["--sigma", "0.1"], ["--margin", "0.2"]):
        assert main([str(sweep), *options]) == 0
        tiers.append([row["tier"] for row in leaderboard(sweep)])
        assert ("sigma assumed" in leaderboard(sweep)[0]["flags"]) == ("--sigma" in options)
    assert tiers == [["1", "2"], ["1", "1"], ["1", "1"]]


def test_another_sweep_and_published_curves_are_shown(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", means=[0.40, 0.45])
    write_sweep(tmp_path / "other", means=[0.40, 0.40], seed=1)
    options = ["--against", str(tmp_path / "other"), "--reference", "log210501", "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "sweep"), *options]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Against other" in page
    assert "UNKNOWN trained as background" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "heat_map.png", "heat_map.svg", "leaderboard.csv", "learning_curves.png", "learning_curves.svg", "report.html",
        "report.md",
    ]  # fmt: skip
    assert not (tmp_path / "sweep" / "report.html").exists()


def test_a_sweep_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", finished=0, status={"state": "running", "data": None, "parameters": None})
    assert main([str(tmp_path / "sweep")]) == 0
    assert leaderboard(tmp_path / "sweep")[0]["state"] == "running"


def test_the_function_for_the_launcher_gives_the_page(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", means=[0.40])
    assert write_report(tmp_path / "sweep") == tmp_path / "sweep" / "report.html"
