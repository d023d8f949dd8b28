"""Importing torch and what stands on it."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Spares the garbage collector what is imported inside, which lives as long as the process.

    Going through it takes half a second of the imports, and a second of the interpreter's end. A second run in one
    process imports nothing, and must not keep what the first has left for the collector.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
