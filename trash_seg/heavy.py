"""Importing torch and what stands on it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Spares the garbage collector what is imported inside, which lives as long as the process.

    Going through it takes half a second of the imports, and a second of the interpreter's end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
