"""Damaged, unfinished and planned runs are listed; the rest is reported."""

import json
from pathlib import Path

import pytest

from tests.report.simulate import write_run
from trash_seg.report.collect import ReportError, Run, collect, last_lines
from trash_seg.rundir import STATES


def by_name(sweep_dir: Path) -> dict[str, Run]:
    return {run.encoder: run for run in collect(sweep_dir)}


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write_run(tmp_path, encoder="resnet18", decoder="Unet", seed=23, miou=0.4321)
    (run,) = collect(tmp_path)
    assert (run.name, run.state, run.seed, run.hash) == (written.name, "done", 23, "0123abcd")
    assert run.best is not None
    assert run.last is not None
    assert run.best.miou == pytest.approx(0.4321)
    assert run.best.miou == max(value for value in run.curves["miou"] if value is not None)
    assert run.last.miou == run.curves["miou"][-1]
    assert run.best.iou["Plastic"] is None  # it occurs nowhere: not 0
    assert run.epochs == run.epoch == len(run.curves["miou"]) == 8


def test_damage_is_listed_with_its_reason(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="good")
    torn = write_run(tmp_path, encoder="torn")
    torn.history_path.write_text(torn.history_path.read_text()[:-40])
    future = write_run(tmp_path, encoder="future")
    future.status_path.write_text(future.status_path.read_text().replace('"schema": 1', '"schema": 99'))
    cut = write_run(tmp_path, encoder="cut")
    cut.status_path.write_text(cut.status_path.read_text()[:200])
    partial = write_run(tmp_path, encoder="partial")
    partial.status_path.write_text(json.dumps({"schema": 1, "state": "done"}))
    words = write_run(tmp_path, encoder="words")
    words.history_path.write_text(words.history_path.read_text().replace("1.5,", "much,"))
    folder = write_run(tmp_path, encoder="folder")
    folder.status_path.unlink()
    folder.status_path.mkdir()
    binary = write_run(tmp_path, encoder="binary")
    binary.history_path.write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty-Unet-s21-0123abcd").mkdir()
    (tmp_path / "notes").mkdir()  # no run, no row

    runs = by_name(tmp_path)
    assert runs["good"].state == "done"
    expected = {
        "torn": "history.csv: line 9 is torn",
        "future": "status.json: schema 99, this version reads 1",
        "cut": "status.json: not JSON",
        "partial": "status.json: incomplete (KeyError: 'config')",
        "words": "could not convert string to float: 'much'",
        "folder": "Is a directory",
        "binary": "can't decode byte",
        "empty": "no status.json",
    }
    for name, reason in expected.items():
        assert runs[name].state == "unreadable", name
        assert reason in str(runs[name].reason)
    assert set(runs) == {"good", *expected}


@pytest.mark.parametrize("state", [s for s in STATES if s != "done"])
def test_every_state_is_kept(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, finished=3, status={"state": state, "error": "cause"})
    (run,) = collect(tmp_path)
    assert (run.state, run.reason, run.epoch, len(run.curves["miou"])) == (state, "cause", 3, 3)


def test_a_run_that_has_not_finished_an_epoch_has_no_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, finished=0, status={"state": "running", "data": None, "parameters": None, "gflops": None})
    (run,) = collect(tmp_path)
    assert (run.best, run.last, run.parameters, run.gflops, run.curves) == (None, None, None, None, {})


PLAN = """run,encoder,decoder,seed,hash,parameters,gflops,state,reason
a-Unet-s21-00000001,a,Unet,21,00000001,1000000,2.5,done,
b-Unet-s21-00000002,b,Unet,21,00000002,,,new,
c-PAN-s21-00000003,c,PAN,21,00000003,,,unsupported,c has no dilated mode
d-Unet-s21-00000004,d,Unet,21,00000004,90000000,,new,"90.0 M parameters, sweep.max_parameters=5e+07"
e-Unet-s21-00000005,e,Unet,21,00000005,,,done,done
"""


def test_what_was_asked_for_and_is_not_there_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="a", hash="00000001")
    (tmp_path / "plan.csv").write_text(PLAN)
    runs = by_name(tmp_path)
    assert {name: run.state for name, run in runs.items()} == {
        "a": "done",
        "b": "missing",
        "c": "unsupported",
        "d": "left out",
        "e": "missing",  # it was there when the plan was made
    }
    assert runs["c"].reason == "c has no dilated mode"
    assert (runs["b"].parameters, runs["d"].parameters) == (None, 90_000_000)


def test_the_plan_completes_what_a_run_does_not_know(tmp_path: Path) -> None:
    write_run(tmp_path, encoder="a", hash="00000001", status={"state": "done", "gflops": None})
    (tmp_path / "plan.csv").write_text(PLAN)
    run = by_name(tmp_path)["a"]
    assert (run.parameters, run.gflops) == (14_000_000, 2.5)


def test_a_plan_names_a_run_whose_directory_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "b-Unet-s21-00000002").mkdir()
    (tmp_path / "plan.csv").write_text(PLAN.replace("\nb-Unet-s21-00000002,b,Unet", "\nb-Unet-s21-00000002,b/x,Unet"))
    run = by_name(tmp_path)["b/x"]
    assert (run.state, run.reason) == ("unreadable", "no status.json")


def test_a_plan_that_is_none_is_said(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "plan.csv").write_text("something,else\n1,2\n")
    with pytest.raises(ReportError, match=r"plan\.csv: not a plan \(KeyError: 'run'\)"):
        collect(tmp_path)


def test_the_end_of_a_log_is_shown_also_where_it_is_not_text(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert last_lines(run).splitlines()[-1] == "[10:00:39] a line of the log, number 39"
    assert len(last_lines(run).splitlines()) == 15
    run.log_path.write_bytes(b"\xff" * 100_000)
    assert set(last_lines(run)) == {"�"}
    run.log_path.unlink()
    assert last_lines(run) == "(train.log: No such file or directory)"
