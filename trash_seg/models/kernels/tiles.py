"""How maps are cut for programs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHANNELS = 32
"""That a program takes: 64 bytes of a pixel in half precision."""
VECTOR = 8
"""Channels that are loaded at once, where a map has multiples of it."""
MAX_VALUES = 2**31
"""Of a map: places are 32-bit numbers."""


def fits(features: Tensor) -> bool:
    """Whether kernels take a map (N, C, H, W); torch takes float64, what is too large, and other memory orders."""
    in_order = features.is_contiguous(memory_format=torch.channels_last)
    return in_order and features.numel() < MAX_VALUES and features.dtype != torch.float64


class Tile(NamedTuple):
    """What a program takes at a time."""

    rows: int
    """Pixels, a power of 2."""
    warps: int
    """Of 32 threads each."""

    def form(self, channels: int) -> dict[str, Any]:
        """What a kernel is compiled for."""
        vector = 1 if channels % VECTOR else VECTOR
        return {"VECTOR": vector, "ROWS": self.rows, "CHANNELS": CHANNELS, "num_warps": self.warps}

    def cut(self, rows: int, parts: int) -> int:
        """Rows in each of at most so many parts of a map (at least one), a multiple of the tile's."""
        return -(-rows // (max(parts, 1) * self.rows)) * self.rows
