"""Time, memory and page size of a report on synthetic sweeps: `python -m benchmarks.report`."""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.report.simulate import write_sweep

NUM_SEEDS = 3


def measure(num_runs: int, *, epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep_dir = Path(folder) / "sweep"
        means = 0.35 + 0.1 * np.random.default_rng(0).random(num_runs // NUM_SEEDS)
        write_sweep(sweep_dir, means=means.tolist(), num_seeds=NUM_SEEDS, epochs=epochs, num_images=12)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "trash_seg.report", str(sweep_dir)], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        size = (sweep_dir / "report.html").stat().st_size / 1e6
    print(
        f"{num_runs:6d} runs, {epochs} epochs: {seconds:6.1f} s, peak {gigabytes:.2f} GB, page {size:.1f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[600, 5000], help="in rising order: memory is a maximum")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    for num_runs in arguments.runs:
        measure(num_runs, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
