"""Asking a run to stop: signals set a request, the loop looks at it between two steps."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from trash_seg.errors import LockLostError, RunInterrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""Ctrl-C, a scheduler's end of time, what submitit sends before it, and a terminal that closes."""


class StopRequest:
    """Whether the run is asked to stop, and why."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lock_lost = False
        self.waits = False
        """Whether the loop looks at requests. Before that, as while images are decoded, a signal ends the run."""

    def request(self, reason: str) -> None:
        """Asks; the first reason stands."""
        self.reason = self.reason or reason

    def raise_if_lock_lost(self) -> None:
        """Call before every write.

        Raises:
            LockLostError: The directory belongs to another process now.
        """
        if self.lock_lost:
            raise LockLostError(self.reason)

    def raise_reason(self) -> None:
        """Ends the run, which has saved its state."""
        raise RunInterrupted(self.reason)


@contextmanager
def handling(numbers: Iterable[signal.Signals], handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handles signals within the block; what is ignored, as SIGHUP under nohup or Ctrl-C in a script, stays so."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turns the stop signals into a request for as long as the block runs; a second SIGINT ends it at once.

    Outside the main thread no handler can be set, and none is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.reason is not None:
            raise KeyboardInterrupt
        stop.request(signal.Signals(number).name)
        if not stop.waits:
            stop.raise_reason()

    with handling(STOP_SIGNALS, handle):
        yield
