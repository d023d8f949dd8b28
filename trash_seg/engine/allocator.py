"""The C library's allocator, on a CPU."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h; see mallopt(3)."""


def keep_freed_memory() -> None:
    """Has the process keep what it frees, for the next step, which needs as much.

    Otherwise glibc maps each large tensor anew, and the kernel clears its pages at first touch: hundreds of thousands
    of page faults a step. Where the C library has no `mallopt`, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)
