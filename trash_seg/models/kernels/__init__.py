"""What a network computes on a GPU by Triton, which comes with torch there, where cuDNN is slow or slow to start.

All take maps in channels_last order, (N, C, H, W) whose memory is (N, H, W, C). Sums are float32, in a fixed order. A
kernel is compiled at its first use, in half a second or so, and kept on the disk for all processes after.
"""

import functools
import logging

import torch

log = logging.getLogger(__name__)


@functools.cache
def are_usable(device: torch.device) -> bool:
    """Whether Triton works here: it needs a C compiler and a recent GPU. If not, one line says why."""
    try:
        from trash_seg.models.kernels import probe

        probe.compare(device)
    except Exception as error:  # of Triton, of the compiler that it starts, of the driver
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.warning("network: Triton does not work here, so that steps take longer (%s)", reason)
        return False
    return True
