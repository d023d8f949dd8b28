"""How maps are cut for programs."""

from typing import Any

ROWS, CHANNELS = 64, 32
"""Pixels and channels that a program takes at a time."""
VECTOR = 8
"""Channels that are loaded at once, where a map has multiples of it."""
MAX_VALUES = 2**31
"""Of a map: places are 32-bit numbers."""


def form(channels: int) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return {"VECTOR": 1 if channels % VECTOR else VECTOR, "ROWS": ROWS, "CHANNELS": CHANNELS}


def cut_rows(rows: int, parts: int) -> int:
    """Rows in each of about so many parts, a multiple of `ROWS`."""
    return -(-rows // (max(parts, 1) * ROWS)) * ROWS
