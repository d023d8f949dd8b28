"""What CUDA, cuDNN and cuBLAS load at their first use, loaded while the host imports what builds the network."""

import contextlib
from collections.abc import Iterator
from threading import Thread

import torch
import torch.nn.functional as F

from trash_seg.config import Config
from trash_seg.engine.precision import DTYPES


@contextlib.contextmanager
def cuda_warming_up(config: Config) -> Iterator[None]:
    """A thread uses the device while what is inside goes on; the end waits for it, also after Ctrl-C.

    Not in deterministic mode, whose settings must stand before CUDA starts.
    """
    if config.runtime.device == "cpu" or config.training.deterministic or not torch.cuda.is_available():
        yield
        return
    thread = Thread(target=_use_cuda, args=[DTYPES[config.training.precision]])
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _use_cuda(dtype: torch.dtype) -> None:
    """Kinds of layers that most networks have, forward and backward; no random numbers are drawn."""
    with contextlib.suppress(RuntimeError):  # what is wrong with the device, the run meets again and says
        values = torch.ones(8, 32, 32, 32, device="cuda", dtype=dtype, requires_grad=True)
        features = values.contiguous(memory_format=torch.channels_last)
        for taps in (3, 1):
            weight = torch.ones(32, 32, taps, taps, device="cuda", dtype=dtype, requires_grad=True)
            features = F.conv2d(features, weight, padding=taps // 2)
            features = F.relu(F.batch_norm(features, None, None, training=True))
        columns = features.flatten(1)
        (columns @ columns.T).float().mean().backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
