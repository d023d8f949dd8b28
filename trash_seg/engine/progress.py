"""The bar that a person sees while a run trains."""

import contextlib
from types import TracebackType
from typing import Self

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunProgress:
    """One bar over all batches of a run, training and validation. Nothing is drawn where there is no terminal."""

    def __init__(self, *, epochs: int, batches_per_epoch: int, done: int, enabled: bool) -> None:
        self._epochs = epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not (enabled and get_console().is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=epochs * batches_per_epoch, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone, which is no reason to fail
            self._bar.stop()

    def advance(self, epoch: int, activity: str) -> None:
        """One batch more.

        Args:
            epoch: Counted from 1.
            activity: training or validating.
        """
        self._bar.update(self._task, advance=1, description=f"epoch {epoch}/{self._epochs} {activity}")
