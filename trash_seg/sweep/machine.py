"""The machine shared out among jobs."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from trash_seg.sweep.worker import Slot

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
BYTES_PER_JOB = 3e9
"""Memory that a job on a CPU may take where nothing is measured: an allowance for torch, a batch and its gradients."""


def slots(*, device: str, num_jobs: int | None, jobs_per_gpu: int, memory: float | None, num_runs: int) -> list[Slot]:
    """One slot for each job that may run at the same time.

    Args:
        device: `runtime.device`.
        num_jobs: At most; None for one a core, as far as memory goes, or as many as the GPUs take.
        jobs_per_gpu: On each GPU.
        memory: Predicted peak bytes of the largest run, None where nothing is measured.
        num_runs: No more slots than these.
    """
    cores = len(os.sched_getaffinity(0))
    gpus = visible_gpus() if device != "cpu" else []
    if gpus:
        count = min(len(gpus) * jobs_per_gpu, num_jobs or num_runs, num_runs)
        # round robin: the first jobs spread over all GPUs
        return [Slot(gpus[i % len(gpus)], max(1, cores // count)) for i in range(count)]
    fitting = max(1, int(_memory_bytes() // (memory or BYTES_PER_JOB)))
    count = min(num_jobs or min(cores, fitting), num_runs)
    return [Slot(None, max(1, cores // count))] * count


def visible_gpus() -> Sequence[str]:
    """What `CUDA_VISIBLE_DEVICES` may name, asked in a process of its own: CUDA that has started cannot be forked."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None and given.startswith("MIG-"):  # of which CUDA counts only the first for one process
        return given.split(",")
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        count = pool.submit(_count_gpus).result()
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _memory_bytes() -> int:
    """Of the machine, or of the container or Slurm job that this process is confined to."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # not there; no number but "max"
            limits.append(int(path.read_text()))
    return min(limits)


def _limit_files() -> Iterator[Path]:
    """Where Linux says what a control group may take: version 2 up to the root, then version 1."""
    with contextlib.suppress(OSError):
        for line in CGROUP.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers in ("", "memory"):
                root, file = (
                    (CGROUPS, "memory.max") if not controllers else (CGROUPS / "memory", "memory.limit_in_bytes")
                )
                group = root / name.lstrip("/")
                yield from (folder / file for folder in (group, *group.parents) if folder.is_relative_to(root))
