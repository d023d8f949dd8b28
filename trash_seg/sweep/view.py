"""What a person sees of a sweep: a live table on a terminal, a line for each event elsewhere."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trash_seg.sweep.plan import PlannedRun


class View:
    """Told of every start and end; looks up epochs and mIoU of running jobs itself."""

    def __init__(self, console: Console, *, total: int) -> None:
        self._console, self._total = console, total
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._ended: Counter[str] = Counter()
        self._units_done = 0.0
        self._began = time.monotonic()
        self._epochs: dict[str, int] = {}
        self._before: dict[str, float] = {}
        """Share of each run that was done when it was first seen running."""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def start(self, run: PlannedRun) -> None:
        """A job has begun."""
        if self._live is None:
            self.say(f"started: {run.files.name}")

    def end(self, run: PlannedRun, status: dict[str, Any]) -> None:
        """A run has ended, here or elsewhere."""
        # Whether one that halving has stopped at a rung is pruned shows when all are there.
        state = f"at epoch {status.get('epoch', '?')}" if status["state"] == "pruned" else status["state"]
        self._ended[state] += 1
        self._units_done += run.work.units * (1 - self._before.get(run.files.name, 0))
        best = status.get("best")
        match status["state"]:
            case "interrupted":
                what = f"{status.get('epoch', 0)} of {run.config.training.epochs} epochs done ({status['error']})"
            case "done" | "pruned":
                what = f"mIoU {best['miou']:.4f} at epoch {best['epoch']}" if best else ""
            case _:
                what = str(status["error"])
        self.say(f"{state} ({sum(self._ended.values())} of {self._total}): {run.files.name}: {what}")

    def update(
        self, *, running: Sequence[PlannedRun], elsewhere: Sequence[PlannedRun], pending: Sequence[PlannedRun]
    ) -> None:
        """Draws the table anew; without a terminal says each epoch that has ended."""
        statuses = [(run, run.files.peek_status() or {}) for run in running]
        if self._live is None:
            for run, status in statuses:
                self._say_epoch(run, status)
            return
        left = self._time_left(statuses, pending)
        counts = ", ".join(f"{count} {state}" for state, count in self._ended.items())
        title = f"{self._total} runs: {len(pending)} waiting, {len(running)} running{', ' + counts if counts else ''}"
        if elsewhere:
            title += f", {len(elsewhere)} running elsewhere"
        table = Table(box=None, pad_edge=False)
        for name in ("run", "epoch", "mIoU", "best"):
            table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
        for run, status in statuses:
            last, best = status.get("last"), status.get("best")
            epochs = f"{status.get('epoch', 0)}/{run.config.training.epochs}"
            table.add_row(run.files.name, epochs, _miou(last), _miou(best))
        self._live.update(Group(Text(title + left), table), refresh=True)

    def _say_epoch(self, run: PlannedRun, status: dict[str, Any]) -> None:
        epoch, last = status.get("epoch", 0), status.get("last")
        if last and epoch != self._epochs.setdefault(run.files.name, epoch):
            self._epochs[run.files.name] = epoch
            self.say(f"epoch {epoch} of {run.config.training.epochs}: {run.files.name}: mIoU {last['miou']:.4f}")

    def _time_left(self, running: list[tuple[PlannedRun, dict[str, Any]]], pending: Sequence[PlannedRun]) -> str:
        """From the pace so far, in units of predicted work."""
        done, left = self._units_done, sum(run.work.units for run in pending)
        for run, status in running:
            share = status.get("epoch", 0) / run.config.training.epochs
            done += run.work.units * (share - self._before.setdefault(run.files.name, share))
            left += run.work.units * (1 - share)
        if done <= 0:
            return ""
        seconds = round((time.monotonic() - self._began) / done * left)
        return f", about {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def _miou(scores: dict[str, Any] | None) -> str:
    return f"{scores['miou']:.4f}" if scores else ""
