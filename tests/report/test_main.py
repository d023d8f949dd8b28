"""The report's command line, on sweeps with known truth."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_module
from tests.report.simulate import write_run, write_sweep
from trash_seg.report.__main__ import main


def leaderboard(sweep_dir: Path) -> list[dict[str, str]]:
    with (sweep_dir / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("folder", ["nowhere", ".", "a_run"])
def test_a_folder_without_runs_is_one_line_and_exit_code_2(tmp_path: Path, folder: str) -> None:
    write_run(tmp_path / "sweep", name="a_run")
    if folder == "a_run":
        folder = "sweep/a_run"
    completed = run_module("trash_seg.report", folder, cwd=tmp_path)
    assert completed.returncode == 2
    assert completed.stdout == ""
    (line,) = completed.stderr.splitlines()
    assert {"nowhere": "no such folder", ".": "sweeps are: sweep", "sweep/a_run": "it is itself a run"}[folder] in line


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
