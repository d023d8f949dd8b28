"""What a network computes on a GPU by Triton, which comes with torch there, where cuDNN is slow or slow to start.

All take maps in channels_last order, (N, C, H, W) whose memory is (N, H, W, C). Sums are float32, in a fixed order. A
kernel is compiled at its first use, in half a second or so, and kept on the disk for all processes after.
"""

import functools

import torch


@functools.cache
def find_obstacle(device: torch.device) -> str | None:
    """Why Triton does not work here: it needs a C compiler and a recent GPU. None if it does."""
    try:
        from trash_seg.models.kernels.depthwise import depthwise_conv2d

        image, weight = torch.ones(1, 8, 4, 4, device=device), torch.ones(8, 1, 3, 3, device=device)
        depthwise_conv2d(image, weight, stride=1, padding=(1, 1, 1, 1), dilation=1)
    except Exception as error:  # of Triton, of the compiler that it starts, of the driver
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None
