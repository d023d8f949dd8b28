"""The pool launcher: one process a job on this machine, and no job takes another with it."""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import FrameType

from filelock import SoftFileLease, Timeout
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich import get_console

from trash_seg.errors import ConfigError
from trash_seg.job import LEASE_SECONDS
from trash_seg.stop import handling
from trash_seg.sweep.machine import slots
from trash_seg.sweep.plan import PlannedRun
from trash_seg.sweep.view import View
from trash_seg.sweep.worker import STOP_SIGNALS, Slot, describe_exit, record_end, work

TICK_SECONDS = 0.5
"""Between two looks at the running jobs."""
ELSEWHERE_SECONDS = 2.0
"""Between two looks at runs that another process works on."""


@dataclass
class _Job:
    """A process that works on a run."""

    run: PlannedRun
    slot: Slot
    process: ForkServerProcess
    answer: Connection


@dataclass
class _Elsewhere:
    """A run that another process holds. The lease's own clock notices a holder that has gone silent."""

    run: PlannedRun
    lease: SoftFileLease
    looked: float = field(default_factory=time.monotonic)


class Pool:
    """Works on runs until each has ended here or elsewhere, or until it is asked to stop."""

    def __init__(self, context: HydraContext, master: DictConfig, *, slots: Sequence[Slot], view: View) -> None:
        self._context, self._master, self._view = context, master, view
        self._free = deque(slots)
        self._pending: deque[PlannedRun] = deque()
        self._jobs: list[_Job] = []
        self._elsewhere: list[_Elsewhere] = []
        self._stops = self._obeyed = 0
        self._forks = get_context("forkserver")

    def work(self, runs: Sequence[PlannedRun]) -> bool:
        """Starts runs in this order; those that seem to run elsewhere come last. Returns False if it was stopped."""
        self._pending = deque(sorted(runs, key=lambda run: run.state == "running"))
        with self._listening(), self._view:
            while self._jobs or ((self._pending or self._elsewhere) and not self._stops):
                while self._free and self._pending and not self._stops:
                    self._start(self._pending.popleft())
                self._look_elsewhere()
                self._stop()
                if self._jobs or self._elsewhere:
                    ready = wait([job.process.sentinel for job in self._jobs], timeout=TICK_SECONDS)
                    for job in [job for job in self._jobs if job.process.sentinel in ready]:
                        self._end(job)
                self._view.update(
                    running=[job.run for job in self._jobs], elsewhere=[entry.run for entry in self._elsewhere],
                    pending=list(self._pending),
                )  # fmt: skip
        return not self._stops

    def _start(self, run: PlannedRun) -> None:
        status = run.files.peek_status()
        if status is not None and status["state"] in ("done", "pruned") and run.has_ended(status):  # by another copy
            self._view.end(run, status)
            return
        slot = self._free.popleft()
        receiver, sender = self._forks.Pipe(duplex=False)
        arguments = (sender, self._context, self._master, run.overrides, run.files, slot)
        process = self._forks.Process(target=work, args=arguments, name=run.files.name)
        process.start()
        sender.close()
        self._jobs.append(_Job(run, slot, process, receiver))
        self._view.start(run)

    def _end(self, job: _Job) -> None:
        job.process.join()
        self._jobs.remove(job)
        self._free.appendleft(job.slot)
        state, message = None, ""
        with contextlib.suppress(EOFError):
            if job.answer.poll():  # it says nothing where the fork server has died and the job itself still works
                state, message = job.answer.recv()
        job.answer.close()
        if state is None:  # one that was asked to stop is to go on, whatever ended it before it had saved
            assert job.process.exitcode is not None
            ended = "interrupted" if self._stops else "failed"
            state, message = self._record(job, *describe_exit(job.process.exitcode), state=ended)
        if state == "running":
            self._elsewhere.append(
                _Elsewhere(job.run, SoftFileLease(job.run.files.lock_path, lease_duration=LEASE_SECONDS))
            )
            return self._view.say(f"{job.run.files.name}: another process works on it; left alone")
        status = job.run.files.peek_status()
        if status is None or status["state"] != state:  # what it could not write down
            status = {"state": state, "error": message}
        self._view.end(job.run, status)
        return None

    def _record(self, job: _Job, cause: str, hint: str | None, *, state: str) -> tuple[str, str]:
        """Writes down the end of a job that could not do so itself. Returns the run's state and the cause."""
        try:
            config, overrides = job.run.config, job.run.overrides
            ended = record_end(config, job.run.files, overrides=overrides, cause=cause, hint=hint, state=state)
        except (OSError, ValueError) as error:
            return state, f"{cause}; and its status could not be written ({error})"
        return ended, cause

    def _look_elsewhere(self) -> None:
        """Runs that have ended elsewhere are settled; those whose holder is gone come back to the queue."""
        now = time.monotonic()
        for entry in [entry for entry in self._elsewhere if now - entry.looked >= ELSEWHERE_SECONDS]:
            entry.looked = now
            status = entry.run.files.peek_status()
            if status is not None and entry.run.has_ended(status):
                self._elsewhere.remove(entry)
                self._view.end(entry.run, status)
                continue
            with contextlib.suppress(Timeout):
                entry.lease.acquire(timeout=0)
                entry.lease.release()
                self._elsewhere.remove(entry)
                self._pending.append(entry.run)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """The first signal asks each job to save and leave, the second ends them."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self._stops += 1

        with handling(STOP_SIGNALS, handle):
            yield

    def _stop(self) -> None:
        """Passes on what was asked since the last look."""
        asked = min(self._stops, 2)
        if asked == self._obeyed:
            return
        self._obeyed = asked
        number = signal.SIGINT if asked == 1 else signal.SIGKILL
        for job in self._jobs:
            if job.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.process.pid, number)
        self._view.say(
            f"stopping: {len(self._jobs)} jobs save and leave; Ctrl-C again ends them at once"
            if asked == 1
            else "ended; the last checkpoints stand"
        )


def launch(
    runs: Sequence[PlannedRun], *, context: HydraContext, master: DictConfig, num_jobs: int | None, jobs_per_gpu: int
) -> bool:
    """Works on a plan's runs, as many at once as the machine and the settings allow.

    Returns:
        False if it was stopped.

    Raises:
        ConfigError: A number of jobs is below 1.
    """
    for key, value in (("num_jobs", num_jobs), ("jobs_per_gpu", jobs_per_gpu)):
        if value is not None and value < 1:
            raise ConfigError(f"hydra.launcher.{key}={value}: must be >= 1")
    get_context("forkserver").set_forkserver_preload(["trash_seg.sweep.preload"])
    # The server inherits the mask and never sees what is sent to the whole process group, as by Ctrl-C or by a terminal
    # that closes; a job takes it off once it is out of reach.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    resource_tracker.ensure_running()  # else the server starts it, and it takes a part of the mask off
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    shares = slots(
        device=str(master.runtime.device), num_jobs=num_jobs, jobs_per_gpu=jobs_per_gpu, num_runs=len(runs),
        memory=max((run.predicted_memory for run in runs if run.predicted_memory), default=None),
    )  # fmt: skip
    return Pool(context, master, slots=shares, view=View(get_console(), total=len(runs))).work(runs)
