"""How maps are cut for programs."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
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


@triton.jit
def own_channels(channels, VECTOR: tl.constexpr, CHANNELS: tl.constexpr) -> Any:
    """`channels`, which the compiler then knows to be a multiple of VECTOR; those of a program; which of them exist."""
    channels = channels // VECTOR * VECTOR
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    return channels, channel, channel < channels


@triton.jit
def pixels_at(first, end, origin, channels, channel, ROWS: tl.constexpr) -> Any:
    """Places of ROWS pixels in a map's memory, of which those before `end` count; it begins at pixel `origin`."""
    row = first + tl.arange(0, ROWS)
    place = (origin + row)[:, None] * channels + channel[None, :]
    return place, (row < end)[:, None] & (channel < channels)[None, :]


@triton.jit
def load(source, place, mask) -> Any:
    """float32; 0 where the mask is not."""
    return tl.load(source + place, mask=mask, other=0.0).to(tl.float32)
