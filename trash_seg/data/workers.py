"""Processes that prepare what a run waits for: they end with it, however it ends."""

import signal
import sys
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from trash_seg.stop import STOP_SIGNALS

T = TypeVar("T")


def prepared(items: Dataset[T], *, num_workers: int, errors: tuple[type[Exception], ...]) -> Iterator[T]:
    """The items of a dataset in their order.

    Args:
        items: Has a length.
        num_workers: Processes that make them; 0 makes them here.
        errors: Raised by an item, these come out as they are, where torch would make one long text of them.
    """
    if num_workers == 0:
        yield from (items[i] for i in range(len(items)))  # type: ignore[arg-type]
        return
    # A generator of its own: by default it draws its seed from the global one, which dropout uses too.
    own = torch.Generator()
    method = "fork" if sys.platform == "linux" else None  # others would give each worker a copy of the samples
    workers = DataLoader(
        _Guarded(items, errors), batch_size=None, num_workers=num_workers, generator=own,
        multiprocessing_context=method, worker_init_fn=_leave_signals_to_the_run,
    )  # fmt: skip
    for item in workers:
        if isinstance(item, errors):
            raise item
        yield item


def _leave_signals_to_the_run(_worker: int) -> None:
    """A scheduler and a terminal signal all processes at once: a worker that died of it would keep the run from saving.

    Workers leave when the run tells them to, or is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Guarded(Dataset[T | Exception]):
    """Hands some errors over instead of raising them."""

    def __init__(self, items: Dataset[T], errors: tuple[type[Exception], ...]) -> None:
        self.items, self.errors = items, errors

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> T | Exception:
        try:
            return self.items[index]
        except self.errors as error:
            return error
