import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_tensors_take_the_memory_of_those_before_them() -> None:
    assert count_page_faults("given back") > 10_000  # four times 64 MiB in pages of 4 KiB, or some of them larger
    assert count_page_faults("kept") < 1_000
