"""The pool launcher: real sweeps on the CPU, through the command line."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Completed, Train, command_environment, start_process
from tests.sweep.cluster import wait_until
from trash_seg.compose import compose_config
from trash_seg.rundir import RunDir
from trash_seg.sweep.worker import record_end

QUICK = (
    "-m", "encoder=resnet18", "decoder=FPN", "training.image_size=64", "runtime.device=cpu", "runtime.num_threads=1",
)  # fmt: skip
SWEEP = (*QUICK, "training.epochs=1")


def statuses(folder: Path, sweep: str = "default") -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: json.loads(path.read_text()) for path in (folder / "outputs" / sweep).glob("*/status.json")
    }


def states(folder: Path) -> dict[int, str]:
    return {status["seed"]: status["state"] for status in statuses(folder).values()}


def wait_for_an_epoch(folder: Path) -> None:
    wait_until(lambda: any(status["epoch"] >= 1 for status in statuses(folder).values()), seconds=120, what="an epoch")


def start(*arguments: str, cwd: Path, script: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """A sweep that can be killed with everything it starts: it leads a session of its own."""
    command = [sys.executable, *([str(script)] if script else ["-m", "trash_seg.train"]), *arguments]
    return start_process(command, cwd=cwd, env=command_environment() | environment, start_new_session=True)


def run(*arguments: str, cwd: Path, script: Path | None = None, **environment: str) -> Completed:
    process = start(*arguments, cwd=cwd, script=script, **environment)
    output = process.communicate()[0]
    return Completed(process.returncode, output)


FAULTY, PATIENT = (ROOT / "tests" / name for name in ("sweep/faulty.py", "patient.py"))


@pytest.mark.slow
@pytest.mark.parametrize("num_jobs", [1, 2])
def test_no_job_takes_another_with_it(tmp_path: Path, num_jobs: int) -> None:
    grid = (*QUICK, "training.epochs=1", "seed=1,2,3,4,5,6,7", f"hydra.launcher.num_jobs={num_jobs}")
    answer = run(*grid, cwd=tmp_path, script=FAULTY)
    output = answer.output
    assert answer.code == 1, output
    assert states(tmp_path) == {1: "failed", 2: "failed", 3: "failed", 4: "failed", 5: "done", 6: "done", 7: "done"}
    errors = {status["seed"]: status["error"] for status in statuses(tmp_path).values()}
    assert errors[1] == "RuntimeError: seed 1 raises"
    assert errors[2] == "the process left with exit code 3"
    assert errors[3] == "killed by signal 9 (SIGKILL)"
    assert errors[4].startswith("out of memory")
    ends = output.splitlines()
    assert "3 done, 4 failed, 0 not finished" in ends
    for seed in (1, 2, 3, 4):
        (at,) = [index for index, line in enumerate(ends) if line.startswith(f"failed: resnet18-FPN-s{seed}-")]
        assert errors[seed] in ends[at]
        assert ends[at + 1].strip().startswith("again: python -m trash_seg.train ")
        assert f"seed={seed}" in ends[at + 1]
    assert any("hydra.launcher.jobs_per_gpu" in line for line in ends)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: no checkpoint fits."""
    grid = (*QUICK, "training.epochs=1", "seed=1,2")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, before[1]))
    try:
        full = run(*grid, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.code == 75, full.output
    assert states(tmp_path) == {1: "interrupted", 2: "interrupted"}
    assert "last.ckpt' (what was saved is intact: once there is space, the same command goes on)" in full.output
    assert "0 done, 0 failed, 2 not finished" in full.output
    assert run(*grid, cwd=tmp_path).code == 0
    assert states(tmp_path) == {1: "done", 2: "done"}


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_twice(tmp_path: Path) -> None:
    grid = (*SWEEP, "seed=1,2", "hydra.launcher.num_jobs=2")
    first = run(*grid, cwd=tmp_path)
    assert first.code == 0, first.output
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("outputs/default/*/*")}
    assert all((tmp_path / "outputs/default" / name / ".hydra/config.yaml").exists() for name in statuses(tmp_path))
    again = run(*grid, cwd=tmp_path)
    assert again.code == 0
    assert "2 left out: done" in again.output
    assert "0 to run" in again.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("outputs/default/*/*")} == before
    single = run(*SWEEP[1:], "seed=2", cwd=tmp_path)  # a job of a sweep lives where the single run does
    assert "done already" in single.output


@pytest.mark.slow
def test_two_copies_of_one_command_share_the_work(tmp_path: Path) -> None:
    grid = (*SWEEP, "seed=1,2,3,4", "hydra.launcher.num_jobs=1")
    copies = [start(*grid, cwd=tmp_path) for _ in range(2)]
    outputs = [copy.communicate()[0] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], outputs
    assert set(states(tmp_path).values()) == {"done"}
    assert [status["attempts"] for status in statuses(tmp_path).values()] == [1, 1, 1, 1]
    assert all("4 done, 0 failed, 0 not finished" in output for output in outputs)


@pytest.mark.slow
def test_ctrl_c_saves_although_nobody_reads_the_output(tmp_path: Path) -> None:
    """As in `… | tee log`, where Ctrl-C ends tee as well."""
    process = start(*QUICK, "training.epochs=40", "seed=1,2", "hydra.launcher.num_jobs=1", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    wait_for_an_epoch(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 75
    assert list(states(tmp_path).values()) == ["interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGHUP)],
    ids=["Ctrl-C", "kill", "kill of the group", "terminal closed"],
)
def test_asked_to_stop_it_saves_and_says_how_to_go_on(
    tmp_path: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    grid = (*QUICK, "training.epochs=40", "seed=1,2", "hydra.launcher.num_jobs=1")
    process = start(*grid, cwd=tmp_path)
    wait_for_an_epoch(tmp_path)
    send(process.pid, number)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert list(states(tmp_path).values()) == ["interrupted"]
    assert "0 done, 0 failed, 2 not finished" in output
    assert re.search(r"interrupted \(1 of 2\): \S+: [1-9]\d* of 40 epochs done", output)
    assert "this goes on: python -m trash_seg.train -m" in output


@pytest.mark.slow
def test_a_second_ctrl_c_ends_what_does_not_leave(tmp_path: Path) -> None:
    grid = (*QUICK, "training.epochs=40", "seed=1,2", "hydra.launcher.num_jobs=1")
    process = start(*grid, cwd=tmp_path, script=PATIENT, STUBBORN="yes")
    wait_for_an_epoch(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("stopping: 1 jobs save and leave; Ctrl-C again ends them at once" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert "ended; the last checkpoints stand" in output
    assert "0 done, 0 failed, 2 not finished" in output
    assert list(states(tmp_path).values()) == ["interrupted"]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_job_gets_its_share_of_the_cores_and_keeps_it(tmp_path: Path) -> None:
    grid = (*QUICK[:-1], "training.epochs=2", "training.image_size=32", "seed=1,2")
    share = len(os.sched_getaffinity(0)) // 2
    begun = run(*grid, "hydra.launcher.num_jobs=2", "sweep.stop_epoch=1", cwd=tmp_path)
    assert begun.code == 0, begun.output
    ended = run(*grid, "hydra.launcher.num_jobs=1", cwd=tmp_path)
    assert ended.code == 0, ended.output
    for name, status in statuses(tmp_path).items():
        assert (status["state"], status["environment"]["num_threads"]) == ("done", share)
        assert status["config"]["runtime"]["num_threads"] is None
        log = RunDir(tmp_path / "outputs" / "default" / name).log_path.read_text()
        assert "runtime.num_threads" not in log  # a setting that nobody gave


@pytest.mark.slow
def test_under_nohup_a_sweep_outlives_its_terminal(tmp_path: Path) -> None:
    """And where its launcher ignores Ctrl-C as well, as in a script's background, its jobs still hear the launcher."""
    ignoring = tmp_path / "ignoring.py"
    ignoring.write_text(
        "import runpy, signal\n"
        "for number in (signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        "if __name__ == '__main__': runpy.run_module('trash_seg.train', run_name='__main__')\n"
    )
    process = start(
        *QUICK, "training.epochs=500", "seed=1,2", "hydra.launcher.num_jobs=1", cwd=tmp_path, script=ignoring
    )

    def after(epoch: int) -> int:
        """Waits for a later epoch. Returns it."""
        epochs = [epoch]

        def passed() -> bool:
            epochs.extend(status["epoch"] for status in statuses(tmp_path).values())
            return max(epochs) > epoch

        wait_until(passed, seconds=120, what=f"an epoch after {epoch}")
        return max(epochs)

    epoch = 0
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        epoch = after(epoch)
        process.send_signal(number)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert list(states(tmp_path).values()) == ["interrupted"]


@pytest.mark.slow
def test_jobs_whose_launcher_is_killed_save_and_leave(tmp_path: Path) -> None:
    process = start(*QUICK, "training.epochs=500", "seed=1,2", "hydra.launcher.num_jobs=2", cwd=tmp_path)
    wait_until(lambda: list(states(tmp_path).values()) == ["running"] * 2, seconds=120, what="two running jobs")
    process.kill()
    process.communicate()
    wait_until(lambda: list(states(tmp_path).values()) == ["interrupted"] * 2, seconds=300, what="two saved jobs")


@pytest.mark.slow
def test_failed_runs_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    run(*SWEEP, "seed=1,5", cwd=tmp_path, script=FAULTY)
    again = run(*SWEEP, "seed=1,5", cwd=tmp_path)
    assert again.code == 1  # the sweep is not whole
    assert "seed 1 raises" in again.output
    assert run(*SWEEP, "seed=1,5", "sweep.retry_failed=true", cwd=tmp_path).code == 0
    assert states(tmp_path) == {1: "done", 5: "done"}


def test_numbers_of_jobs_are_checked(train: Train) -> None:
    answer = train(*SWEEP, "seed=1,2", "hydra.launcher.num_jobs=0")
    assert answer.code != 0
    assert "hydra.launcher.num_jobs=0: must be >= 1" in answer.output
    assert "Traceback" not in answer.output


@pytest.mark.slow
def test_a_run_directory_that_cannot_be_used_fails_that_run_alone(tmp_path: Path) -> None:
    name = compose_config(["encoder=resnet18", "decoder=FPN", "training.epochs=1", "seed=1"]).run_id
    (tmp_path / "outputs" / "default").mkdir(parents=True)
    (tmp_path / "outputs" / "default" / name).write_text("in the way")
    answer = run(*SWEEP, "seed=1,2", cwd=tmp_path)
    assert answer.code != 0
    assert f"{name}: [Errno 17] File exists" in answer.output
    assert "again: move the directory away first" in answer.output
    assert states(tmp_path) == {2: "done"}
    assert "Traceback" not in answer.output


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers_still_work(tmp_path: Path, launcher: str) -> None:
    answer = run(*SWEEP, "seed=1,2", f"hydra/launcher={launcher}", cwd=tmp_path)
    assert answer.code == 0, answer.output
    assert states(tmp_path) == {1: "done", 2: "done"}


def test_gpus_are_handed_out_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    from trash_seg.sweep import machine

    monkeypatch.setattr(machine, "visible_gpus", lambda: ["2", "5"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    shares = machine.slots(device="auto", num_jobs=None, jobs_per_gpu=2, memory=None, num_runs=9)
    assert [slot.gpu for slot in shares] == ["2", "5", "2", "5"]
    assert {slot.num_threads for slot in shares} == {2}
    assert len(machine.slots(device="auto", num_jobs=3, jobs_per_gpu=2, memory=None, num_runs=9)) == 3
    assert [slot.gpu for slot in machine.slots(device="cpu", num_jobs=3, jobs_per_gpu=2, memory=None, num_runs=9)] == [
        None
    ] * 3


def test_every_mig_instance_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one process CUDA counts one of them, so that asking it would leave the others idle."""
    from trash_seg.sweep import machine

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert machine.visible_gpus() == ["MIG-a", "MIG-b"]


def test_what_a_run_has_said_of_its_end_stands(tmp_path: Path) -> None:
    """As where its process crashes on its way out."""
    config = compose_config([])
    for state, stands in (
        ("done", "done"), ("pruned", "pruned"), ("unsupported", "unsupported"), ("running", "failed"),
        ("interrupted", "failed"),
    ):  # fmt: skip
        files = RunDir(tmp_path / state)
        files.path.mkdir()
        files.write_status({"state": state, "error": "as it was", "environment": {"host": None}})
        assert record_end(config, files, overrides=[], cause="killed") == stands
        status = files.read_status()
        assert status is not None
        assert (status["state"], status["error"]) == (stands, "killed" if stands == "failed" else "as it was")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA")
def test_each_job_sees_its_gpu_before_cuda_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own CUDA runtime, which asks a driver that notes what it is asked (`driver.c`)."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name, ROOT / "tests/sweep/driver.c"], check=True)
    notes = tmp_path / "notes"
    sweep = (*SWEEP, "seed=1,2,3,4", "runtime.device=auto")
    answer = run(*sweep, cwd=tmp_path, LD_LIBRARY_PATH=str(tmp_path), DRIVER_NOTES=str(notes))
    assert answer.code == 0, answer.output
    # Once a job and nowhere else: neither the launcher nor the fork server has started CUDA.
    seen = notes.read_text().split()
    assert (len(seen), set(seen)) == (4, {"0", "1"})


def test_a_cpu_runs_no_more_jobs_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    from trash_seg.sweep import machine

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    monkeypatch.setattr(machine, "_memory_bytes", lambda: 16e9)
    count = len(machine.slots(device="cpu", num_jobs=None, jobs_per_gpu=1, memory=4e9, num_runs=99))
    assert count == 4
    with contextlib.suppress(KeyError):
        assert machine.slots(device="cpu", num_jobs=None, jobs_per_gpu=1, memory=None, num_runs=2)[0].num_threads == 32


@pytest.mark.parametrize(
    ("line", "file"), [("0::/job", "job/memory.max"), ("9:memory:/job", "memory/job/memory.limit_in_bytes")]
)
def test_memory_is_what_the_control_group_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str
) -> None:
    from trash_seg.sweep import machine

    (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{line}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    physical = machine._memory_bytes()
    assert physical > 2**29
    limit = tmp_path / file
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    assert machine._memory_bytes() == physical
    limit.write_text(f"{2**29}\n")
    assert machine._memory_bytes() == 2**29


def test_a_machine_without_slurm(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    answer = train(*SWEEP, "seed=1,2", "hydra/launcher=slurm")
    assert answer.code != 0
    assert "there is no sbatch on this machine" in answer.output
    assert "Traceback" not in answer.output
