"""The loop: train, validate, record, save."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from trash_seg.config import Config
from trash_seg.data.loader import Loader
from trash_seg.engine import checkpoint
from trash_seg.engine.metrics import Scores, score
from trash_seg.engine.progress import RunProgress
from trash_seg.engine.step import Step
from trash_seg.errors import DivergedError
from trash_seg.rundir import RunDir, write_atomically
from trash_seg.stop import StopRequest

SAVES_BESIDE_TRAINING = ("cuda",)
"""Devices that train while the host writes; on a CPU the one would take from the other."""

Row = dict[str, float | None]
"""Of the history, by column."""

log = logging.getLogger(__name__)


@dataclass
class Position:
    """Where a run stands. Together with the state of `Step` it is all that a checkpoint holds."""

    epoch: int = 0
    """Epochs finished and recorded."""
    step: int = 0
    """Training steps done in the epoch after that."""
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(steps per epoch,) float32: the training loss at each step of the epoch, on the device."""
    train_seconds: float = 0.0
    """Spent on those steps."""
    history: list[Row] = field(default_factory=list)
    best: dict[str, Any] | None = None
    """Of the best epoch: `epoch`, the scores, the `counts` (N, C, C) int64, and the `weights`, all on the host."""
    last: dict[str, Any] | None = None
    """`epoch` and the scores of the last recorded epoch."""


class Fit:
    """One training: what the parts of the loop share."""

    def __init__(
        self, step: Step, *, config: Config, train: Loader, val: Loader, classes: list[str], val_names: list[str],
        run_dir: RunDir, stop: StopRequest, on_save: Callable[[Position, list[Row]], None],
    ) -> None:  # fmt: skip
        """`on_save` is told of the position that is saved, and of the history's rows that are new with it."""
        self.step, self.config, self.run_dir, self.stop = step, config, run_dir, stop
        self.train_loader, self.val_loader = train, val
        self.classes, self.val_names = classes, val_names
        self.on_save = on_save
        self.position = Position()
        # Worker processes are forked at the start of an epoch, and none from the midst of a save.
        self.saves_beside = step.device.type in SAVES_BESIDE_TRAINING and not (train.forks or val.forks)
        self.saved_at = time.monotonic()
        self.writer = ThreadPoolExecutor(1)
        self.saving: tuple[Future[None], dict[str, Any]] | None = None
        """What is being written beside the training."""
        self.num_saved = 0
        """Epochs that are on the disk, and that `on_save` knows."""

    def run(self) -> Position:
        """Trains from the last checkpoint, or from the start, to the last epoch or to `sweep.stop_epoch`.

        Raises:
            RunInterrupted: Asked to stop; everything is saved.
            DivergedError: A loss is NaN or infinite.
            LockLostError: The directory belongs to another process; nothing more was written.
        """
        self.stop.waits = True
        position = self.resume()
        batches = self.train_loader.num_batches + self.val_loader.num_batches
        self.progress = RunProgress(
            epochs=self.config.training.epochs,
            batches_per_epoch=batches,
            done=position.epoch * batches + position.step,
            enabled=self.config.runtime.progress,
        )
        with self.progress, self.writer:
            try:
                while position.epoch < last_epoch(self.config):
                    train_loss = self.train()
                    counts, val_loss, val_seconds = self.validate()
                    self.record(counts, train_loss=train_loss, val_loss=val_loss, val_seconds=val_seconds)
                    self.save(at_once=position.epoch == last_epoch(self.config))
            finally:
                self.finish_save()
        return position

    def resume(self) -> Position:
        """Goes to where the last whole checkpoint stands."""
        saved = checkpoint.load(self.run_dir, step=self.step)
        if saved is not None:
            self.position = Position(**saved)
            self.position.losses = self.position.losses.to(self.step.device)
            log.info("continuing after epoch %d, step %d", self.position.epoch, self.position.step)
            # A kill may have come between the checkpoint and the files that follow from it.
            self.write_results(self.position)
            self.num_saved = self.position.epoch
        return self.position

    def train(self) -> float:
        """The rest of an epoch of training steps. Returns the mean loss over all its steps."""
        position, epoch = self.position, self.position.epoch
        num_steps = self.train_loader.num_batches
        if position.step == 0:
            position.losses = torch.zeros(num_steps, device=self.step.device)
            position.train_seconds = 0.0
            torch.manual_seed(_epoch_seed(self.config.seed, epoch))  # for dropout: counted, not streamed
        self.step.model.train()
        started = time.perf_counter()
        for batch in self.train_loader.epoch(epoch, start=position.step):
            position.losses[position.step] = self.step.train(*batch)
            position.step += 1
            self.progress.advance(epoch + 1, "training")
            if self._save_is_due():
                position.train_seconds += time.perf_counter() - started
                started = time.perf_counter()
                self.save_within_epoch()
        losses: list[float] = position.losses.tolist()  # the one synchronisation of the epoch
        position.train_seconds += time.perf_counter() - started
        _raise_if_diverged(losses, epoch=epoch + 1)
        return float(sum(losses) / num_steps)

    def validate(self) -> tuple[Tensor, float, float]:
        """Counts (N, C, C) int64 on the host, mean loss over images, seconds."""
        started = time.perf_counter()
        self.step.evaluated.eval()
        losses, counts = [], []
        for batch in self.val_loader.epoch(0):
            if self.stop.reason is not None:
                self.save_within_epoch()
            loss, batch_counts = self.step.validate(*batch)
            losses.append(loss * len(batch_counts))
            counts.append(batch_counts)
            self.progress.advance(self.position.epoch + 1, "validating")
        host_counts = torch.cat(counts).cpu()
        val_loss = float(torch.stack(losses).double().sum()) / len(host_counts)
        if not np.isfinite(val_loss):
            raise DivergedError(f"the validation loss is {val_loss} after epoch {self.position.epoch + 1}")
        return host_counts, val_loss, time.perf_counter() - started

    def record(self, counts: Tensor, *, train_loss: float, val_loss: float, val_seconds: float) -> None:
        """Adds the epoch to the history and, where its mIoU is the highest so far, makes it the best."""
        position = self.position
        scores = score(counts.numpy(), classes=self.classes, batch_size=self.config.training.batch_size)
        position.epoch, position.step = position.epoch + 1, 0
        position.last = {"epoch": position.epoch, **asdict(scores)}
        if position.best is None or scores.miou > position.best["miou"]:
            weights = checkpoint.on_host(self.step.evaluated.state_dict())
            position.best = {**position.last, "counts": counts, "weights": weights}
        position.history.append(self._history_row(scores, train_loss, val_loss, val_seconds))

    def save(self, *, at_once: bool) -> None:
        """Writes checkpoint and results.

        On a GPU the training goes on meanwhile, unless samples come from workers, and an epoch that ends before they
        are written is saved with a later one: what a kill can lose is the epoch under way, and the seconds of a save.

        Args:
            at_once: Return only when they are on the disk.
        """
        if not at_once and self.saving is not None and not self.saving[0].done():
            return
        self.finish_save()
        self.stop.raise_if_lock_lost()
        position = self.position
        best = position.best
        if best is not None and (best["epoch"], 0) == (position.epoch, position.step):  # the same tensors, written once
            best = {**best, "weights": self.step.evaluated.state_dict()}
        state = checkpoint.collect(self.step, {**vars(position), "best": best})
        self.saved_at = time.monotonic()
        if at_once or not self.saves_beside:
            self._write(state)
            self._announce(state)
        else:
            state = checkpoint.on_host(state)
            self.saving = self.writer.submit(self._write, state), state

    def finish_save(self) -> None:
        """Waits for what is being written, and raises what went wrong with it."""
        if self.saving is not None:
            (writing, state), self.saving = self.saving, None
            writing.result()
            self._announce(state)

    def _write(self, state: dict[str, Any]) -> None:
        checkpoint.write(self.run_dir, state)
        position = Position(**state["progress"])
        if position.epoch > self.num_saved:
            self.write_results(position)

    def _announce(self, state: dict[str, Any]) -> None:
        """Tells of the epochs that are saved."""
        saved = Position(**state["progress"])
        rows, self.num_saved = saved.history[self.num_saved :], saved.epoch
        for row in rows:
            self._log(row)
        if rows:
            self.on_save(saved, rows)

    def _log(self, row: Row) -> None:
        log.info(
            "epoch %d/%d  train loss %.4f  val loss %.4f  mIoU %.4f  %.1f s",
            row["epoch"], self.config.training.epochs, row["train_loss"], row["val_loss"], row["miou"],
            (row["train_seconds"] or 0) + (row["val_seconds"] or 0),
        )  # fmt: skip

    def write_results(self, position: Position) -> None:
        """Writes the history, and weights and counts of the best epoch where they are new."""
        self.stop.raise_if_lock_lost()
        best, classes = position.best, self.classes
        if best is not None and best["epoch"] > self.num_saved:
            weights = {name: tensor.contiguous() for name, tensor in best["weights"].items()}
            about = {"run": self.run_dir.name, "epoch": str(best["epoch"]), "miou": repr(best["miou"])}
            content = safetensors.torch.save(weights, metadata=about)
            write_atomically(self.run_dir.best_path, lambda file: file.write(content))
            arrays = {
                "counts": best["counts"].numpy(),
                "images": np.array(self.val_names),
                "classes": np.array(classes),
            }
            write_atomically(
                self.run_dir.confusion_path,
                lambda file: np.savez_compressed(file, epoch=best["epoch"], **arrays),
            )
        self.run_dir.write_history(position.history)

    def save_within_epoch(self) -> None:
        """Saves in mid-epoch, and ends the run if it is asked to stop."""
        self.stop.raise_if_lock_lost()
        _raise_if_diverged(self.position.losses[: self.position.step].tolist(), epoch=self.position.epoch + 1)
        self.save(at_once=True)
        if self.stop.reason is not None:
            self.stop.raise_reason()

    def _save_is_due(self) -> bool:
        waited = time.monotonic() - self.saved_at
        return self.stop.reason is not None or waited >= self.config.runtime.checkpoint_seconds

    def _history_row(self, scores: Scores, train_loss: float, val_loss: float, val_seconds: float) -> Row:
        return {
            "epoch": self.position.epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "miou": scores.miou,
            "miou_image": scores.miou_image,
            "miou_batch": scores.miou_batch,
            "lr": self.step.lr,
            "train_seconds": round(self.position.train_seconds, 3),
            "val_seconds": round(val_seconds, 3),
            **{f"iou_{name}": value for name, value in scores.iou.items()},
        }


def last_epoch(config: Config) -> int:
    """Where this attempt ends; the learning rate follows the whole run all the same."""
    return min(config.training.epochs, config.sweep.stop_epoch or config.training.epochs)


def _raise_if_diverged(losses: list[float], *, epoch: int) -> None:
    for step, loss in enumerate(losses, start=1):
        if not np.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} at epoch {epoch}, step {step}")


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch: a hash of both, so that neighbouring seeds share nothing."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
