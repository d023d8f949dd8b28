"""One process's work on a run, and the status it keeps. Imports torch only once there is work to do."""

import dataclasses
import errno
import importlib.metadata
import logging
import platform
import shlex
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trash_seg import __version__
from trash_seg.config import Config
from trash_seg.errors import (
    DivergedError,
    LockLostError,
    RunInterrupted,
    UnsupportedPairError,
    UserError,
    is_out_of_memory,
)
from trash_seg.heavy import heavy_imports
from trash_seg.rundir import RunDir
from trash_seg.stop import StopRequest, stop_on_signals

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "numpy")
EXIT_CODES = {
    "done": 0, "unsupported": 0, "pruned": 0, "failed": 1, "diverged": 1, "interrupted": 75, "running": 75,
}  # fmt: skip
"""75 is the system's code for "try again later": the same command goes on."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, for people and for schedulers."""

    state: str
    """One of rundir.STATES; `running` means that another process works on it."""
    message: str

    @property
    def exit_code(self) -> int:
        """Of the process: 0 done, pruned or unsupported, 1 failed or diverged, 75 to be continued."""
        return EXIT_CODES[self.state]


class Attempt:
    """One process's work on a run: keeps its status true from the first moment to the last."""

    def __init__(
        self,
        config: Config,
        files: RunDir,
        *,
        stop: StopRequest,
        overrides: Sequence[str],
        before: dict[str, Any] | None,
        num_threads: int | None,
    ) -> None:
        self.config, self.files, self.stop = config, files, stop
        self.started = time.monotonic()
        before = before or {}
        self.seconds_before: float = before.get("seconds", 0.0)
        self.num_threads = self._choose_threads(before) or num_threads
        self.status: dict[str, Any] = {
            "run": config.run_id,
            "hash": config.hash,
            "seed": config.seed,
            "state": "running",
            "config": dataclasses.asdict(config),
            "overrides": list(overrides),
            "command": shlex.join(["python", "-m", "trash_seg.train", *overrides]),
            "parameters": before.get("parameters"),
            "gflops": before.get("gflops"),
            "environment": _environment(num_threads=self.num_threads),
            "data": before.get("data"),
            "started": before.get("started", _now()),
            "attempts": before.get("attempts", 0) + 1,
            "epoch": before.get("epoch", 0),
            "epochs": config.training.epochs,
            "best": before.get("best"),
            "last": before.get("last"),
            "peak_memory_bytes": None,
        }

    def run(self) -> Outcome:
        """Trains; whatever happens ends as a state in the status, unless the lock is lost: then nothing is written."""
        try:
            return self._run()
        except LockLostError as error:
            outcome = Outcome("running", f"{self.files.path}: {error}; nothing more was written")
            log.error("%s", outcome.message)
            return outcome

    def _run(self) -> Outcome:
        self.files.remove_leftovers()
        try:
            with stop_on_signals(self.stop):
                self.write("running")
                self.train()
        except UnsupportedPairError as error:
            return self.end("unsupported", f"unsupported: {error}", error=str(error))
        except DivergedError as error:
            return self.end("diverged", f"diverged: {error}", error=str(error), hint="a lower optimizer.lr may help")
        except (RunInterrupted, KeyboardInterrupt) as error:
            reason = str(error) or "SIGINT"
            return self.end("interrupted", f"interrupted ({reason}); the same command goes on", error=reason)
        except LockLostError:
            raise
        except UserError as error:
            message = f"{error}\n{error.hint}" if error.hint else str(error)
            return self.end("failed", message, error=str(error), hint=error.hint)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                hint = "what was saved is intact: once there is space, the same command goes on"
                return self.end("interrupted", f"interrupted ({error}). {hint}", error=str(error), hint=hint)
            asked = self.stop.reason
            if asked is not None:  # what was signalled has broken on its way out
                hint = "the same command goes on from the checkpoint before"
                message = f"interrupted ({asked}), not saved ({error}); {hint}"
                return self.end("interrupted", message, error=asked, traceback=_trace(error))
            return self.fail(error)
        epoch, epochs = self.status["epoch"], self.config.training.epochs
        if epoch < epochs:
            reason = f"stopped after epoch {epoch} of {epochs} (sweep.stop_epoch)"
            return self.end("pruned", f"pruned: {reason}", error=reason)
        return self.end("done", f"done: {describe_result(self.status['best'], self.files)}")

    def train(self) -> None:
        """The work itself; torch is imported here, once there is some to do."""
        with heavy_imports():
            from trash_seg.engine.warm_up import cuda_warming_up

            with cuda_warming_up(self.config):
                from trash_seg.training import train

        train(self.config, self.files, stop=self.stop, notes=self, num_threads=self.num_threads)

    def _choose_threads(self, before: dict[str, Any]) -> int | None:
        asked = self.config.runtime.num_threads
        if not self.files.has_checkpoint():
            return asked
        began_with: int | None = before.get("environment", {}).get("num_threads")
        if began_with is not None and asked not in (None, began_with):
            log.warning("runtime.num_threads=%d: the run goes on with the %d that it began with", asked, began_with)
        return began_with or asked

    def note_start(self, *, device: str, num_threads: int, parameters: int, gflops: float | None) -> None:
        """Records where and what is trained."""
        self.status["environment"].update(device=device, num_threads=num_threads)
        self.status.update(parameters=parameters, gflops=gflops)

    def note_data(self, fingerprint: str, num_train: int, num_val: int, warnings: dict[str, int]) -> None:
        """Records what the run is trained on; a directory never mixes two datasets.

        Raises:
            UserError: The run began on other data.
        """
        began_on = self.status["data"] and self.status["data"]["fingerprint"]
        if began_on not in (None, fingerprint) and self.files.has_checkpoint():
            raise UserError(
                f"data.root={self.config.data.root}: this run began on other data (fingerprint {began_on}, now "
                f"{fingerprint}); give another sweep.name, or move {self.files.path} away"
            )
        self.status["data"] = {
            "fingerprint": fingerprint, "num_train": num_train, "num_val": num_val, "warnings": warnings,
        }  # fmt: skip
        for code, count in warnings.items():
            log.warning("data: %d × %s", count, code)
        self.write("running")

    def note_epoch(self, epoch: int, *, best: dict[str, Any], last: dict[str, Any], peak_memory_bytes: int) -> None:
        """Records the scores after an epoch."""
        self.status.update(epoch=epoch, best=best, last=last, peak_memory_bytes=peak_memory_bytes)
        self.write("running")

    def fail(self, error: Exception) -> Outcome:
        """Records an error that is not the user's own, with the traceback and, where there is one, a way out."""
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = None
        if is_out_of_memory(error):
            cause = f"out of memory ({cause})"
            hint = "lower training.batch_size, or hydra.launcher.num_jobs (on a GPU hydra.launcher.jobs_per_gpu)"
        elif isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            hint = "BatchNorm cannot train on one value a channel: raise training.batch_size or training.image_size"
        elif isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            hint = "a process that prepares samples was killed, mostly for want of memory: give the job more of it"
        elif isinstance(error, RuntimeError) and "does not have a deterministic implementation" in str(error):
            hint = "training.deterministic=false trains this network"
        message = f"{cause.rstrip('.')}. {hint}" if hint else cause
        return self.end("failed", message, error=cause, hint=hint, traceback=_trace(error))

    def write(self, state: str, **extra: str | None) -> None:
        """Writes the status."""
        self.stop.raise_if_lock_lost()
        seconds = round(self.seconds_before + time.monotonic() - self.started, 3)
        notes = {"error": None, "hint": None, "traceback": None, **extra}
        self.status.update(state=state, updated=_now(), seconds=seconds)
        self.files.write_status({**self.status, **notes})

    def end(self, state: str, message: str, **notes: str | None) -> Outcome:
        """Writes the final state and says it."""
        try:
            self.write(state, **notes)
        except OSError as error:
            message += f"; and {self.files.status_path} could not be written ({error.strerror})"
            state = "interrupted" if error.errno in NO_SPACE else "failed"
        level = logging.INFO if EXIT_CODES[state] == 0 else logging.ERROR
        log.log(level, "%s", message, exc_info="traceback" in notes)
        return Outcome(state, message)


def describe_result(best: dict[str, Any], files: RunDir) -> str:
    """The best mIoU, and where history and picture lie."""
    return f"mIoU {best['miou']:.4f} at epoch {best['epoch']}\n  {files.history_path}\n  {files.picture_path}"


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _environment(*, num_threads: int | None) -> dict[str, Any]:
    return {
        "trash_seg": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": None,
        "num_threads": num_threads,
    }
