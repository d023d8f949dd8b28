import errno
import json
from pathlib import Path

import pytest

from trash_seg.rundir import RunDir, replacing, write_text


def test_history_is_read_back_exactly(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.write_history([{"epoch": 1, "miou": 0.1 + 0.2, "iou_a, b": None}])
    assert run_dir.read_history() == [{"epoch": "1", "miou": "0.30000000000000004", "iou_a, b": ""}]


def test_a_torn_history_is_refused(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.write_history([{"epoch": 1, "miou": 0.5}, {"epoch": 2, "miou": 0.6}])
    text = run_dir.history_path.read_text()
    run_dir.history_path.write_text(text[: text.rindex(",")])
    with pytest.raises(ValueError, match="line 3 is torn"):
        run_dir.read_history()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "schema list"), ('{"schema": 99}', "schema 99"), ('{"schema": 1}', "state None")],
)
def test_a_foreign_status_is_refused(tmp_path: Path, text: str, message: str) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.status_path.write_text(text)
    with pytest.raises(ValueError, match=message):
        run_dir.read_status()


def test_status_refuses_numbers_that_do_not_exist(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_dir.write_status({"state": "done", "miou": float("nan")})
    assert run_dir.read_status() is None


def test_a_failed_write_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_text(path, json.dumps(1))

    with pytest.raises(OSError, match="No space left") as raised, replacing(path, previous=tmp_path / "before"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    assert path.read_text() == "1"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.abc.tmp").write_text("half")
    write_text(tmp_path / "status.json", "{}")
    RunDir(tmp_path).remove_leftovers()
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
