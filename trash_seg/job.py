"""One run, from a Config to a finished directory. Knows no Hydra, and imports torch only once there is work to do."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import LeaseCompromise, SoftFileLease, Timeout

from trash_seg.attempt import Attempt, Outcome, describe_result
from trash_seg.config import Config
from trash_seg.errors import UserError
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""A lock whose holder is on another machine and has not renewed it for so long is taken over."""


class RunFailed(Exception):
    """Carries an outcome whose exit code is not 0 through Hydra."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def run(
    config: Config, run_dir: str | Path, *, overrides: Sequence[str] = (), num_threads: int | None = None
) -> Outcome:
    """Trains, continues, or leaves alone what is done or runs elsewhere.

    Args:
        config: Every setting.
        run_dir: The run's directory; made if it is not there.
        overrides: What was given on the command line, for the command that runs it again.
        num_threads: CPU threads where neither the config nor an earlier attempt says how many.
    """
    try:
        return _run(config, RunDir(run_dir), overrides=overrides, num_threads=num_threads)
    except UserError as error:  # the directory itself is the trouble, so no status can say it
        log.error("%s", error)
        return Outcome("failed", str(error))


def _run(config: Config, files: RunDir, *, overrides: Sequence[str], num_threads: int | None) -> Outcome:
    try:
        files.path.mkdir(parents=True, exist_ok=True)
        status = files.read_status()
    except ValueError as error:
        raise UserError(f"{error}. Move the directory away to train anew") from error
    except OSError as error:
        raise UserError(f"{files.path}: cannot be used ({error.strerror}); sweep.name chooses the folder") from error
    if status is not None and status["state"] == "done":
        return _finished(config, files, status)
    stop_epoch = config.sweep.stop_epoch
    if status is not None and status["state"] == "pruned" and stop_epoch is not None and status["epoch"] >= stop_epoch:
        return _nothing_to_do("pruned", f"pruned already: {status['error']}")
    stop = StopRequest()

    def lose(compromise: LeaseCompromise) -> None:
        stop.lock_lost = True
        silent = compromise.reason == "refresh-failed"
        stop.request("its lock could not be renewed" if silent else "another process has taken this directory")

    lease = SoftFileLease(files.lock_path, lease_duration=LEASE_SECONDS, on_compromise=lose)
    try:
        take(lease)
    except Timeout:
        return _nothing_to_do("running", f"{files.path}: another process is working on it; left alone")
    except OSError as error:
        raise UserError(f"{files.path}: cannot be written ({error.strerror}); sweep.name chooses the folder") from error
    try:
        status = files.read_status()
        if status is not None and status["state"] == "done":  # finished while we waited
            return _finished(config, files, status)
        attempt = Attempt(config, files, stop=stop, overrides=overrides, before=status, num_threads=num_threads)
        return attempt.run()
    finally:
        lease.release()


def take(lease: SoftFileLease) -> None:
    """Acquires a run's lock, once it is sure that nobody works on the run.

    A holder that died on this machine is noticed at once. Of any other, as on another machine or in a container that
    has started anew under its old name, only silence says that it is gone; one that works renews the lock.

    Raises:
        Timeout: The holder works.
    """
    before, end = _renewed(lease), time.monotonic() + LEASE_SECONDS * 1.2
    while True:
        try:
            lease.acquire(timeout=2.0)
        except Timeout:
            if time.monotonic() > end or _renewed(lease) not in (None, before):
                raise
        else:
            return


def _renewed(lease: SoftFileLease) -> int | None:
    try:
        return os.stat(lease.lock_file).st_mtime_ns
    except FileNotFoundError:
        return None


def _finished(config: Config, files: RunDir, status: dict[str, Any]) -> Outcome:
    if config.data.root != status["config"]["data"]["root"]:
        log.warning(
            "this run was trained on data.root=%s; with other data under data.root=%s, give another sweep.name",
            status["config"]["data"]["root"], config.data.root,
        )  # fmt: skip
    return _nothing_to_do("done", f"done already: {describe_result(status['best'], files)}")


def _nothing_to_do(state: str, message: str) -> Outcome:
    """Says so."""
    log.info(message)
    return Outcome(state, message)
