"""`python -m trash_seg.train` that waits after its first epoch until it is asked to stop: a signal meets it there.

With STUBBORN in the environment it does not leave then either.
"""

import os
import sys
import time
from typing import Any

from trash_seg.attempt import Attempt
from trash_seg.train import main

note_epoch = Attempt.note_epoch


def wait(attempt: Attempt, epoch: int, **about: Any) -> None:
    """Notes an epoch; the first one's note takes until the request."""
    note_epoch(attempt, epoch, **about)
    while epoch == 1 and (attempt.stop.reason is None or "STUBBORN" in os.environ):
        time.sleep(0.01)


Attempt.note_epoch = wait  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
