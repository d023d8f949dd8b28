"""What every job needs, imported once: the fork server imports this module, and jobs are forked from it.

Importing torch, SMP and albumentations takes seconds a process. Nothing here may start CUDA or a thread: neither
survives a fork.
"""

from trash_seg.heavy import heavy_imports

with heavy_imports():
    import trash_seg.sweep.worker
    import trash_seg.training  # noqa: F401
