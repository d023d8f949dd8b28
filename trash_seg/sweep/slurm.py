"""The Slurm launcher: a job array that outlives its submitter, and a submitter that finds its array again.

Submitting goes through submitit. What is submitted under which name is written down before sbatch is called, and the
queue is asked by that name; so whoever gives the command again knows what is queued, whatever became of the first.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLease
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from trash_seg.errors import ConfigError, UserError
from trash_seg.job import LEASE_SECONDS, RunFailed
from trash_seg.rundir import RunDir, write_text
from trash_seg.stop import handling
from trash_seg.sweep.plan import FAILED, PlannedRun
from trash_seg.sweep.scontrol import ask, end_of, last_line, max_array_size
from trash_seg.sweep.view import View
from trash_seg.sweep.worker import STOP_SIGNALS, record_end, run_composed


class SlurmRun:
    """What submitit stores and a node calls: one run of the sweep."""

    def __init__(self, context: HydraContext, master: DictConfig, overrides: Sequence[str]) -> None:
        self.context, self.master, self.overrides = context, master, list(overrides)

    def __call__(self) -> str:
        """Works on the run. Its state; a failed run's Slurm job ends FAILED."""
        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        outcome, path = run_composed(
            self.context, self.master, self.overrides, num_threads=int(cores) if cores else None, on_console=True
        )
        if outcome.state == "interrupted":
            status = RunDir(path).read_status()
            if status is not None and status["error"] == signal.SIGUSR2.name:
                # The time is over, and the run is saved: now submitit's own handler puts the job back into the queue.
                signal.raise_signal(signal.SIGUSR2)
        if outcome.state in FAILED:
            raise RunFailed(outcome)
        if outcome.exit_code:  # cancelled, requeued by Slurm itself, or running elsewhere
            raise SystemExit(outcome.exit_code)
        return outcome.state

    def checkpoint(self) -> Any:
        """Asked by submitit what to run after a requeue: the same, from the run's last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Queue:
    """The jobs of one sweep in Slurm's queue."""

    def __init__(self, sweep_dir: Path) -> None:
        self.folder = (sweep_dir / ".submitit").absolute()
        self.lock = SoftFileLease(self.folder / "submit.lock", lease_duration=LEASE_SECONDS)

    def jobs(self) -> dict[str, str]:
        """Run → Slurm job id, of all that are queued or running.

        Raises:
            UserError: squeue does not answer.
        """
        arrays = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*.json")}
        if not arrays:
            return {}
        lines = ask("squeue", "--noheader", "--array", "--format=%i %j", f"--name={','.join(arrays)}").splitlines()
        jobs = {}
        for line in lines:
            job_id, name = line.split(maxsplit=1)
            index = int(job_id.partition("_")[2] or 0)  # a single job is no array
            jobs[arrays[name.strip()][index]] = job_id
        return jobs

    def submit(
        self, runs: Sequence[PlannedRun], *, context: HydraContext, master: DictConfig, settings: Mapping[str, Any]
    ) -> dict[str, str]:
        """Submits runs as arrays, as large as Slurm takes them.

        Returns:
            Run → Slurm job id.

        Raises:
            UserError: Slurm refuses one.
        """
        size = max_array_size()
        jobs: dict[str, str] = {}
        for first in range(0, len(runs), size):
            jobs |= self._submit_array(runs[first : first + size], context=context, master=master, settings=settings)
        return jobs

    def _submit_array(
        self, runs: Sequence[PlannedRun], *, context: HydraContext, master: DictConfig, settings: Mapping[str, Any]
    ) -> dict[str, str]:
        import submitit

        name = f"{master.sweep.name}-{uuid.uuid4().hex[:8]}"
        write_text(self.folder / f"{name}.json", json.dumps([run.files.name for run in runs]))
        executor = submitit.AutoExecutor(
            self.folder / "%j", cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"]
        )
        submitted = False
        try:
            executor.update_parameters(**_parameters(settings), name=name)
            with executor.batch():
                jobs = [executor.submit(SlurmRun(context, master, run.overrides)) for run in runs]
            submitted = True
            return {run.files.name: job.job_id for run, job in zip(runs, jobs, strict=True)}
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise UserError(f"hydra/launcher=slurm: sbatch refuses the job: {last_line(str(error))}") from error
        except submitit.core.utils.FailedSubmissionError as error:
            raise UserError("hydra/launcher=slurm: sbatch does not say the job's number; it was cancelled") from error
        finally:
            if not submitted:  # what is in the queue all the same would wait in vain for what it is to run
                subprocess.run(["scancel", f"--name={name}"], capture_output=True, check=False)


_GENERAL = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "stderr_to_stdout")
"""What submitit names alike for every executor."""


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The launcher's settings as submitit takes them."""
    given = {key: value for key, value in settings.items() if key != "max_num_timeout" and value is not None}
    if "cpus_per_task" in given:
        # Since Slurm 22.05 srun does not take it from sbatch, and nodes that bind to cores give it one.
        given["srun_args"] = [f"--cpus-per-task={given['cpus_per_task']}", *given.get("srun_args", ())]
    extra = given.get("additional_parameters", {})
    extra = {"requeue": "no-requeue" not in extra, **extra}  # at the end of its time; a site's default may forbid it
    given["additional_parameters"] = {key: value for key, value in extra.items() if value is not False}
    return {key if key in _GENERAL else f"slurm_{key}": value for key, value in given.items()}


def _asks_for_gpus(settings: Mapping[str, Any]) -> bool:
    asked = {**settings, **(settings.get("additional_parameters") or {})}
    return any(value for key, value in asked.items() if any(word in key for word in ("gpu", "gres", "tres")))


def launch(
    runs: Sequence[PlannedRun],
    *,
    context: HydraContext,
    master: DictConfig,
    settings: Mapping[str, Any],
    poll_seconds: float,
) -> bool:
    """Submits what is not queued yet and watches until all has ended. Stopping the watcher stops no job.

    Returns:
        False where the watcher was stopped.

    Raises:
        UserError: There is no Slurm here, or it refuses.
    """
    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(f"hydra/launcher=slurm: there is no {program} on this machine")
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("hydra/launcher=slurm: submitit is not installed (pip install 'trash_seg[slurm]')")
    queue = Queue(runs[0].files.path.parent)
    queue.folder.mkdir(parents=True, exist_ok=True)
    view = View(get_console(), total=len(runs))
    try:
        with queue.lock:  # of two copies of a command, the second finds what the first has submitted
            jobs = queue.jobs()
            new = [run for run in runs if run.files.name not in jobs]
            if new:
                with _signals_wait():
                    jobs |= queue.submit(new, context=context, master=master, settings=settings)
        view.say(
            f"Slurm: {len(new)} submitted, {len(runs) - len(new)} queued or running before; logs in {queue.folder}"
        )
        if new and master.runtime.device == "auto" and not _asks_for_gpus(settings):
            view.say(
                "Slurm: no GPU is asked for, so runs train on the CPU; hydra.launcher.gpus_per_node=1 asks for one"
            )
        with view:
            _watch(runs, queue, view, poll_seconds, known=jobs)
    except KeyboardInterrupt:
        ids = sorted({job_id.partition("_")[0] for job_id in queue.jobs().values()})
        view.say("no longer watching" + (f"; the jobs go on (scancel {' '.join(ids)} ends them)" if ids else ""))
        return False
    return True


@contextmanager
def _signals_wait() -> Iterator[None]:
    """An array is submitted whole: a signal that comes meanwhile takes effect at the end of the block."""
    came: list[int] = []
    try:
        with handling(STOP_SIGNALS, lambda number, _frame: came.append(number)):
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # for sbatch, which Ctrl-C reaches as well
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    finally:
        for asked in came:
            signal.raise_signal(asked)


def _watch(
    runs: Iterable[PlannedRun], queue: Queue, view: View, poll_seconds: float, *, known: Mapping[str, str]
) -> None:
    """Settles runs as they end. One that left the queue without a final state has died with its job, a known one."""
    left = {run.files.name: run for run in runs}
    seen = dict(known)
    gone: set[str] = set()
    while left:
        try:
            jobs = queue.jobs()
        except UserError as error:  # a controller that restarts answers again
            view.say(f"{error}; asking again")
            time.sleep(poll_seconds)
            continue
        seen |= jobs
        for name, run in list(left.items()):
            status = run.files.peek_status()
            if name in jobs:
                gone.discard(name)
            elif status is not None and run.has_ended(status):
                view.end(left.pop(name), status)
            elif name not in gone:  # a status may arrive after its job has left the queue
                gone.add(name)
            else:
                _settle_lost(left.pop(name), seen.get(name), view)
        running = [run for name, run in left.items() if (run.files.peek_status() or {}).get("state") == "running"]
        view.update(running=running, elsewhere=[], pending=[run for run in left.values() if run not in running])
        if left:
            time.sleep(poll_seconds)


def _settle_lost(run: PlannedRun, job_id: str | None, view: View) -> None:
    state, cause = end_of(job_id)
    try:
        status = run.files.read_status()
        if status is None or status["state"] == "running":
            record_end(run.config, run.files, overrides=run.overrides, state=state, cause=cause)
            status = run.files.read_status()
    except (OSError, ValueError) as error:  # not the same as none: nothing is written over it
        status = {"state": "failed", "error": f"{cause}; and its status cannot be used ({error})"}
    view.end(run, status or {"state": state, "error": cause})


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hydra's nodes as plain values, which submitit can store."""
    return {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in settings.items()}
