import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
PR_SET_THP_DISABLE = 41  # pages of 2 MB would be too few to count
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
import torch
from trash_seg.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(32):  # what is aligned needs a little more than what is freed, at first
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_page_faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_tensors_take_the_memory_of_those_before_them() -> None:
    pages = 4 * 2**26 // resource.getpagesize()
    assert count_page_faults("given back") > pages / 2
    assert count_page_faults("kept") < pages / 10
