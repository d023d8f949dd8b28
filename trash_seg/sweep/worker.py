"""One job of a sweep, in a process of its own: from Hydra's pieces to `job.run`."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from filelock import SoftFileLease, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from trash_seg.attempt import Attempt, Outcome
from trash_seg.compose import user_message
from trash_seg.config import Config, register, to_config
from trash_seg.job import LEASE_SECONDS, run, take
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a sweep from a terminal, or with it."""
ENDED = ("done", "pruned", "unsupported")
"""States that a process which dies after it has written them does not change."""


@dataclass(frozen=True)
class Slot:
    """The part of the machine that a job may use."""

    gpu: str | None
    """What `CUDA_VISIBLE_DEVICES` becomes; None leaves it."""
    num_threads: int | None
    """CPU threads of a run that does not say how many; None for all."""


def run_composed(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], *, num_threads: int | None, on_console: bool
) -> tuple[Outcome, Path]:
    """Composes one job of a sweep and runs it as Hydra runs a job: `.hydra/`, `train.log`.

    Args:
        context: Hydra's config loader and callbacks.
        master: The config of the sweep, without what differs between its jobs.
        overrides: What differs, and all else that was given.
        num_threads: CPU threads of a run that does not say how many.
        on_console: Log there too, not only to the run's file.

    Returns:
        The outcome and the run's directory.
    """
    register()
    setup_globals()
    composed = context.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = 0  # a run is named by what it is
        if not on_console:
            composed.hydra.job_logging.root.handlers = ["file"]

    def task(values: DictConfig) -> tuple[Outcome, Path]:
        config = to_config(values)
        hydra_config = HydraConfig.get()
        path = Path(hydra_config.runtime.output_dir)
        overrides = [str(override) for override in hydra_config.overrides.task]
        return run(config, path, overrides=overrides, num_threads=num_threads), path

    ended = run_job(
        task_function=task, config=composed, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )  # fmt: skip
    answer: tuple[Outcome, Path] = ended.return_value  # raises what the task raised
    return answer


def work(
    answer: Connection, context: HydraContext, master: DictConfig, overrides: Sequence[str], files: RunDir, slot: Slot
) -> None:
    """The main function of a job's process. Sends the outcome's state and message, if it lives to do so."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which asks each job to stop once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by SIGINT, which the launcher may itself ignore
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see pool.launch
    threading.Thread(target=_stop_without_launcher, daemon=True).start()
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    try:
        files.path.mkdir(parents=True, exist_ok=True)
        with files.log_path.open("ab", buffering=0) as log:  # what libraries print, and the last words of a crash
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        outcome, _ = run_composed(context, master, overrides, num_threads=slot.num_threads, on_console=False)
    except KeyboardInterrupt:  # before the run could set its own handlers
        outcome = Outcome("interrupted", "interrupted before it began")
    except Exception as error:  # what the run could not write into its own status: its directory is not to be used
        outcome = Outcome("failed", user_message(error))
    answer.send((outcome.state, outcome.message))
    sys.exit(outcome.exit_code)


def _stop_without_launcher() -> None:
    """A job whose launcher is gone would be seen by nobody: it saves and leaves, as if asked to."""
    launcher = parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def describe_exit(exit_code: int) -> tuple[str, str | None]:
    """How a process ended that did not say so itself, and a hint."""
    if exit_code >= 0:
        return f"the process left with exit code {exit_code}", None
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "unknown"
    hint = "the system kills what takes too much memory: fewer jobs at once, or a lower training.batch_size"
    return f"killed by signal {-exit_code} ({name})", hint if name == "SIGKILL" else None


def record_end(
    config: Config,
    files: RunDir,
    *,
    overrides: Sequence[str],
    cause: str,
    hint: str | None = None,
    state: str = "failed",
) -> str:
    """Writes how a run has ended whose process is gone without a word, unless it has said so after all.

    Args:
        config: Of the run.
        files: Its directory.
        overrides: What makes it by itself.
        cause: Why it ended.
        hint: A way out.
        state: `failed`, or `interrupted` where it is to go on; one that has no status yet then gets none.

    Returns:
        The state that stands; `running` where another process has the run by now.
    """
    files.path.mkdir(parents=True, exist_ok=True)
    before = files.read_status()
    lease = SoftFileLease(files.lock_path, lease_duration=LEASE_SECONDS)
    try:
        take(lease)
    except Timeout:
        return "running"
    try:
        status = files.read_status()
        if status is not None and status["state"] == "running":
            files.write_status({**status, "state": state, "error": cause, "hint": hint, "traceback": None})
        elif status is not None and (status != before or status["state"] in ENDED):  # by the process itself, or another
            return str(status["state"])
        elif state == "failed":  # it died before it wrote anything
            attempt = Attempt(config, files, stop=StopRequest(), overrides=overrides, before=status, num_threads=None)
            attempt.write("failed", error=cause, hint=hint)
    finally:
        lease.release()
    return state
