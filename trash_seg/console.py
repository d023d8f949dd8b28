"""Log lines on the console, beside rich's bars and tables."""

import logging

from rich import get_console


class ConsoleHandler(logging.Handler):
    """Logs through rich's console, so that lines appear above a bar instead of in it. Tracebacks go to the file."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102 - logging's own
        get_console().print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
