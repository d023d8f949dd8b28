"""`python -m trash_seg.train` with seeds that fail in their own ways; each job's process imports this as its main."""

import os
import signal
import sys

from trash_seg.attempt import Attempt
from trash_seg.train import main

train = Attempt.train


def fail(attempt: Attempt) -> None:
    """Trains, but for the seeds that must not."""
    match attempt.config.seed:
        case 1:
            raise RuntimeError("seed 1 raises")
        case 2:
            os._exit(3)
        case 3:
            os.kill(os.getpid(), signal.SIGKILL)
        case 4:
            raise MemoryError("seed 4 asks for too much")
    train(attempt)


Attempt.train = fail  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
