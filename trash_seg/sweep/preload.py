"""What every job needs, imported once: the fork server imports this module, and jobs are forked from it.

Importing torch, SMP and albumentations takes seconds a process. Nothing here may start CUDA or a thread: neither
survives a fork.
"""

import trash_seg.data.dataset
import trash_seg.data.loader
import trash_seg.engine.fit
import trash_seg.engine.loss
import trash_seg.engine.samples
import trash_seg.engine.step
import trash_seg.models.build
import trash_seg.sweep.worker  # noqa: F401
