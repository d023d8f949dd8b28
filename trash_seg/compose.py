"""Hydra at the edges: composing a Config outside of `hydra.main`, and showing errors as one message."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from trash_seg.config import Config, no_such_setting, register, to_config
from trash_seg.errors import UserError

CONF_DIR = Path(__file__).parents[1] / "conf"


def compose_config(overrides: Sequence[str]) -> Config:
    """The Config that `python -m trash_seg.train` would see under the same overrides."""
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_config(compose("config", overrides=list(overrides)))


def report_errors(command: Callable[[], int]) -> int:
    """Runs a command. What the user can mend is shown without a traceback, and its exit code is 2."""
    try:
        return command()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {user_message(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}. Runs write below outputs/ of this folder", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 75


def user_message(error: BaseException) -> str:
    """The part of an error, or of what it was raised from, that is meant for the user."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    message = str(error)
    if misspelt := re.match(r"Could not override '([\w.]+)'", message):  # Hydra would advise to add it with a +
        return no_such_setting(misspelt[1])
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{error.__cause__}"
    return message
