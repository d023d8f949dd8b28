"""What every job needs, imported once: the fork server imports this module, and jobs are forked from it.

Importing torch, SMP and albumentations takes seconds a process. Nothing here may start CUDA or a thread: neither
survives a fork.
"""

import trash_seg.sweep.worker
import trash_seg.training  # noqa: F401
