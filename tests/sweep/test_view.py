"""What the live table says of the time left."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from trash_seg.rundir import RunDir
from trash_seg.sweep import view


def test_the_time_left_counts_only_what_was_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: clock[0])
    output = io.StringIO()
    shown = view.View(Console(file=output, force_terminal=True, width=200), total=2)
    training = SimpleNamespace(epochs=100)
    runs = [
        SimpleNamespace(
            files=RunDir(tmp_path / name), work=SimpleNamespace(units=1.0), config=SimpleNamespace(training=training)
        )
        for name in ("one", "other")
    ]
    for run in runs:
        run.files.path.mkdir()
    runs[0].files.write_status({"state": "running", "epoch": 90})  # by the command before
    with shown:
        shown.update(running=runs[:1], elsewhere=[], pending=runs[1:])
        assert " left" not in output.getvalue()
        clock[0] = 60.0
        runs[0].files.write_status({"state": "running", "epoch": 91})
        shown.update(running=runs[:1], elsewhere=[], pending=runs[1:])
        assert "about 1:49:00 left" in output.getvalue()  # 109 epochs at one a minute
        runs[0].files.write_status({"state": "done", "epoch": 100})
        clock[0] = 600.0
        shown.end(runs[0], runs[0].files.read_status())
        runs[1].files.write_status({"state": "running", "epoch": 0})
        shown.update(running=runs[1:], elsewhere=[], pending=[])
        assert "about 1:40:00 left" in output.getvalue()  # 10 epochs in 10 minutes


def test_a_pruned_run_that_does_not_say_its_epoch(tmp_path: Path) -> None:
    output = io.StringIO()
    run = SimpleNamespace(files=RunDir(tmp_path / "one"), work=SimpleNamespace(units=1.0))
    view.View(Console(file=output, width=200), total=1).end(run, {"state": "pruned", "error": "could not be written"})
    assert "at epoch ? (1 of 1): one" in output.getvalue()
