"""The Slurm launcher on a real Slurm of one node."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Completed, command_environment, end_processes, start_process
from tests.sweep.cluster import needs_slurm, running_cluster, wait_until
from tests.sweep.test_halving import GRID, check_finished
from tests.sweep.test_pool import statuses
from trash_seg.rundir import TIME_COLUMNS, RunDir
from trash_seg.sweep.slurm import _asks_for_gpus, _parameters

pytestmark = [pytest.mark.slurm, needs_slurm]
QUICK = ("-m", "encoder=resnet18", "training.image_size=64", "runtime.device=cpu")
HELD = "+hydra.launcher.additional_parameters.hold=true"
"""No job ends, as none starts, before a second command looks."""
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll_seconds=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


class Sweep:
    """A sweep on the cluster, and what Slurm says of it."""

    def __init__(self, cluster: dict[str, str], folder: Path) -> None:
        self.environment = {**cluster, **command_environment(), "SLURM_CONF": cluster["SLURM_CONF"]}
        self.folder = folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trash_seg.train", *QUICK, *SLURM, *arguments]
        return start_process(command, cwd=self.folder, env=self.environment)

    def cancel(self) -> None:
        """What a failed test leaves takes no core from the next."""
        for name in self.names():
            self.slurm("scancel", f"--name={name}")

    def run(self, *arguments: str) -> Completed:
        process = self.start(*arguments)
        output = process.communicate()[0]
        return Completed(process.returncode, output)

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, text=True, capture_output=True, check=True).stdout

    def names(self) -> set[str]:
        """Of this sweep's submissions."""
        return {path.stem for path in (self.folder / "outputs" / "default" / ".submitit").glob("*.json")}

    def jobs(self) -> list[dict[str, str]]:
        """Of this sweep, each as Slurm's own fields."""
        names = self.names()
        lines = self.slurm("scontrol", "show", "job", "--oneliner").splitlines()
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "JobName" in line]
        return [job for job in jobs if job["JobName"] in names]

    def history(self) -> dict[str, list[dict[str, str]]]:
        """Without the times."""
        paths = sorted((self.folder / "outputs" / "default").glob("resnet18-*"))
        return {
            path.name: [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in RunDir(path).read_history()]
            for path in paths
        }

    def wait_for_attempt(self, number: int) -> None:
        wait_until(
            lambda: any(status["attempts"] >= number for status in statuses(self.folder).values()),
            seconds=240,
            what=f"attempt {number}",
        )

    def wait_for_a_later_epoch(self) -> int:
        """Of the one run. Returns it."""
        (epoch,) = self.epochs()
        wait_until(lambda: self.epochs()[0] > epoch, seconds=120, what=f"an epoch after {epoch}")
        return self.epochs()[0]

    def process_on_the_node(self) -> int:
        """The process id of the one job that runs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended since
                words = path.read_bytes().split(b"\0")
                if b"python" in Path(os.fsdecode(words[0])).name.encode() and b"submitit.core._submit" in words:
                    found += [int(path.parent.name)] if bytes(self.folder) in words[-2] else []
        (pid,) = found
        return pid

    def release_after(self, words: str, process: subprocess.Popen[str]) -> None:
        """Lets held jobs start once a process has said some words."""
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if words in line:
                break
        assert words in lines[-1], lines
        for job in self.jobs():
            self.slurm("scontrol", "release", job["JobId"])

    def epochs(self) -> list[int]:
        return [status["epoch"] for status in statuses(self.folder).values()]


@pytest.fixture
def sweep(cluster: dict[str, str], tmp_path: Path) -> Iterator[Sweep]:
    sweep = Sweep(cluster, tmp_path)
    yield sweep
    end_processes()  # or one in the midst of submitting leaves an array behind
    sweep.cancel()


def test_a_failed_run_fails_in_slurm_and_hides_no_other(sweep: Sweep) -> None:
    grid = ("training.epochs=1", "seed=1,2", "optimizer.lr=1e-4,1e30", "runtime.device=auto")
    answer = sweep.run(*grid, "decoder=FPN,DPT")
    assert answer.code == 1, answer.output
    assert "4 left out: SMP cannot build them" in answer.output
    assert "4 submitted" in answer.output
    assert "no GPU is asked for, so runs train on the CPU; hydra.launcher.gpus_per_node=1 asks for one" in answer.output
    assert "2 done, 2 failed, 0 not finished" in answer.output
    jobs = sweep.jobs()
    assert sorted(job["JobState"] for job in jobs) == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]
    for status in statuses(sweep.folder).values():
        assert status["state"] == ("done" if status["config"]["optimizer"]["lr"] == 1e-4 else "diverged")
    again = sweep.run(*grid, "decoder=FPN,DPT")
    assert again.code == 1  # what failed has not become good
    assert "0 to run" in again.output
    assert "no GPU is asked for" not in again.output
    assert len(sweep.jobs()) == 4


def test_requeued_and_out_of_time_a_run_goes_on_as_if_unbroken(sweep: Sweep, tmp_path: Path) -> None:
    grid = ("decoder=FPN", "training.epochs=500", "seed=1", "runtime.num_threads=1")
    process = sweep.start(*grid, "hydra.launcher.timeout_min=30", "hydra.launcher.signal_delay_s=10")
    wait_until(lambda: max(sweep.epochs(), default=0) >= 1, seconds=120, what="an epoch")
    (job,) = sweep.jobs()
    sweep.slurm("scontrol", "requeue", job["JobId"])
    sweep.wait_for_attempt(2)
    sweep.wait_for_a_later_epoch()
    hours, minutes, seconds = map(int, sweep.jobs()[0]["RunTime"].split(":"))
    limit = 60 * hours + minutes + 1 + (seconds > 30)
    sweep.slurm("scontrol", "update", f"JobId={job['JobId']}", f"TimeLimit={limit}")
    sweep.wait_for_attempt(3)  # the second was ended by its limit
    sweep.slurm("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=30")
    epoch = sweep.wait_for_a_later_epoch()
    assert int(sweep.jobs()[0]["Restarts"]) == 2
    sweep.slurm("scancel", job["JobId"])
    output = process.communicate()[0]
    assert process.returncode == 75, output
    ((name, broken),) = sweep.history().items()
    unbroken = Sweep(sweep.environment, tmp_path / "unbroken")
    unbroken.folder.mkdir()
    command = [sys.executable, "-m", "trash_seg.train", *QUICK[1:], *grid]
    single = start_process(command, cwd=unbroken.folder, env=sweep.environment)
    wait_until(lambda: max(unbroken.epochs(), default=0) >= len(broken), seconds=300, what="as many epochs")
    single.send_signal(signal.SIGINT)
    single.communicate()
    assert unbroken.history()[name][: len(broken)] == broken
    assert len(broken) >= epoch


def test_jobs_outlive_their_submitter_and_are_found_again(sweep: Sweep) -> None:
    grid = ("decoder=FPN", "training.epochs=1", HELD)
    process = sweep.start(*grid, "seed=1,2,3")
    wait_until(sweep.jobs, seconds=120, what="queued jobs")
    process.kill()
    process.communicate()
    again = sweep.start(*grid, "seed=1,2,3,4")
    sweep.release_after("1 submitted, 3 queued or running before", again)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert [(s["state"], s["attempts"]) for s in statuses(sweep.folder).values()] == [("done", 1)] * 4
    assert [job["JobState"] for job in sweep.jobs()] == ["COMPLETED"] * 4


def test_ctrl_c_ends_the_watching_only_and_a_killed_job_is_seen(sweep: Sweep) -> None:
    grid = ("decoder=FPN", "training.epochs=300", "seed=1")
    process = sweep.start(*grid)
    wait_until(lambda: any(epoch >= 1 for epoch in sweep.epochs()), seconds=120, what="an epoch")
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert "the jobs go on (scancel " in output
    (job,) = sweep.jobs()
    assert job["JobState"] == "RUNNING"
    watcher = sweep.start(*grid)
    assert watcher.stdout is not None
    assert any("1 queued or running before" in line for line in watcher.stdout)
    os.kill(sweep.process_on_the_node(), signal.SIGKILL)
    output = watcher.communicate()[0]
    assert watcher.returncode == 1, output
    (status,) = statuses(sweep.folder).values()
    assert status["state"] == "failed"
    assert f"its Slurm job {job['JobId']} ended FAILED" in status["error"]


def test_a_cancelled_job_says_nothing_against_its_run_and_halving_waits_for_it(sweep: Sweep) -> None:
    grid = ("decoder=FPN", "hydra/sweeper=halving", "training.epochs=2", "seed=1", "optimizer.lr=1e-3,1e-4")
    process = sweep.start(*grid, "hydra.launcher.array_parallelism=1")
    wait_until(lambda: len(sweep.jobs()) == 2, seconds=120, what="one job that runs and one that waits")
    (waiting,) = (job for job in sweep.jobs() if job["ArrayTaskId"] == "1")
    assert waiting["JobState"] == "PENDING"
    sweep.slurm("scancel", f"{waiting['ArrayJobId']}_1")
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert re.search(r"interrupted .*0 of 2 epochs done \(its Slurm job \d+_1 ended CANCELLED\)", output)
    assert "pruned at epoch 1: " not in output
    assert "0 done, 0 failed, 2 not finished" in output
    assert [(status["state"], status["epoch"]) for status in statuses(sweep.folder).values()] == [("pruned", 1)]
    again = sweep.run(*grid)
    assert again.code == 0, again.output
    assert "1 done, 1 pruned, 0 failed, 0 not finished" in again.output


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_run_may_use_all_cores_of_its_job(sweep: Sweep) -> None:
    process = sweep.start("decoder=FPN", "training.epochs=300", "seed=1", "hydra.launcher.cpus_per_task=2")
    wait_until(lambda: any(epoch >= 1 for epoch in sweep.epochs()), seconds=120, what="an epoch")
    assert len(os.sched_getaffinity(sweep.process_on_the_node())) == 2
    assert [status["environment"]["num_threads"] for status in statuses(sweep.folder).values()] == [2]
    (job,) = sweep.jobs()
    sweep.slurm("scancel", job["JobId"])
    output = process.communicate()[0]
    assert process.returncode == 75, output


def test_whether_a_job_may_be_requeued_and_has_a_gpu_is_the_users_to_say() -> None:
    """The cluster of these tests forbids requeueing where nothing is said."""
    for extra, options in (
        ({}, {"requeue": True}),
        ({"no-requeue": True}, {"no-requeue": True}),
        ({"requeue": False}, {}),
    ):
        assert _parameters({"additional_parameters": extra})["slurm_additional_parameters"] == options
    for given in ({"gpus_per_node": 1}, {"gres": "gpu:1"}, {"additional_parameters": {"gpus-per-task": 1}}):
        assert _asks_for_gpus(given)
    assert not _asks_for_gpus({"gpus_per_node": None, "partition": "gpu", "additional_parameters": {}})


def wrap_sbatch(sweep: Sweep, then: str) -> None:
    """Puts a program before sbatch that submits and then does something more."""
    folder = sweep.folder / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" {then}\n')
    (folder / "sbatch").chmod(0o755)
    sweep.environment = {**sweep.environment, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_ctrl_c_in_the_midst_of_submitting_leaves_whole_jobs(sweep: Sweep) -> None:
    wrap_sbatch(sweep, "&& kill -INT $PPID")
    grid = ("decoder=FPN", "training.epochs=1", "seed=1,2", HELD)
    stopped = sweep.run(*grid)
    assert stopped.code == 75, stopped.output
    assert "the jobs go on (scancel " in stopped.output
    again = sweep.start(*grid)
    sweep.release_after("0 submitted, 2 queued or running before", again)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert len(sweep.jobs()) == 2


def test_what_was_submitted_in_part_is_cancelled(sweep: Sweep) -> None:
    """Here submitit cannot read the job's number, and so cannot say what the job is to run."""
    wrap_sbatch(sweep, ">/dev/null; echo welcome")
    answer = sweep.run("decoder=FPN", "training.epochs=1", "seed=1,2")
    assert answer.code == 2, answer.output
    assert "sbatch does not say the job's number; it was cancelled" in answer.output.splitlines()[-1]
    wait_until(lambda: {job["JobState"] for job in sweep.jobs()} == {"CANCELLED"}, seconds=60, what="cancelled jobs")


def test_what_slurm_refuses_is_said_in_a_line(sweep: Sweep) -> None:
    answer = sweep.run("training.epochs=1", "seed=1", "hydra.launcher.partition=nowhere")
    assert answer.code != 0
    assert "nvalid partition" in answer.output.splitlines()[-1]
    assert "Traceback" not in answer.output


def test_halving(sweep: Sweep) -> None:
    answer = sweep.run("decoder=FPN", *GRID[4:])
    assert answer.code == 0, answer.output
    check_finished(sweep.folder)
    assert len(sweep.jobs()) == 7  # 4, 2 and 1
