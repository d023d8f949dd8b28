"""Log lines on the console, beside rich's bars and tables; and a console that may go away."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich import get_console


class ConsoleHandler(logging.Handler):
    """Logs through rich's console, so that lines appear above a bar instead of in it. Tracebacks go to the file."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102 - logging's own
        get_console().print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Work goes on, and says nothing more, when whoever reads its output is gone: a closed pipe or terminal."""
    out, err = _Lasting(sys.stdout), _Lasting(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


class _Lasting:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
