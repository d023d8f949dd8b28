"""A sweep's makespan against the experiment log's way, which trains its models one after the other in one process.

    python -m benchmarks.sweep ../shared/data/trash190

Twelve pairs by `python -m trash_seg.train -m`, the same by halving, and by `benchmarks/peer.py`, taking turns.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.job import run
from benchmarks.machine import RESULTS_DIR, job_settings, keep, spread
from trash_seg.engine.precision import has_bf16

ENCODERS, DECODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "resnet34"), ("FPN", "Unet", "Linknet")
GOALS = {"sweep": 1.8, "halving": 4.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-workers", type=int, default=4)
    parser.add_argument("--jobs", default="null", help="jobs at once on a CPU (default: the launcher's choice)")
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "sweep.json")
    given = parser.parse_args()
    precision = "bf16" if torch.cuda.is_available() or has_bf16() else "fp32"
    common = ["--epochs", str(given.epochs), "--size", str(given.size), "--workers", str(given.peer_workers)]
    pairs = ",".join(f"{encoder}:{decoder}" for encoder, decoder in itertools.product(ENCODERS, DECODERS))
    grid = [
        "trash_seg.train", "-m",
        *job_settings(given.data, f"{','.join(ENCODERS)}:{','.join(DECODERS)}", size=given.size),
        f"training.epochs={given.epochs}", f"training.precision={precision}", f"hydra.launcher.num_jobs={given.jobs}",
    ]  # fmt: skip
    ways = {
        "peer": ["benchmarks.peer", str(given.data.resolve()), "--pairs", pairs, *common],
        "sweep": grid,
        "halving": [*grid, "hydra/sweeper=halving"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number, (name, command) in itertools.product(range(1, given.rounds + 1), ways.items()):
        with tempfile.TemporaryDirectory() as folder:
            cache = [] if name == "peer" else [f"runtime.cache_dir={folder}/cache"]
            seconds[name].append(run([*command, *cache], Path(folder))["seconds"])
        print(f"round {number}: {name:8} {seconds[name][-1]:7.1f} s", file=sys.stderr, flush=True)
    print(f"12 pairs, {given.epochs} epochs at {given.size} px, {precision}; medians of {given.rounds}")
    ratios = {}
    for name, values in seconds.items():
        ratios[name] = statistics.median(a / b for a, b in zip(seconds["peer"], values, strict=True))
        goal = f" (goal {GOALS[name]})" if name in GOALS else ""
        print(f"{name:8} {spread(values)} s  × {ratios[name]:.2f}{goal}")
    keep(given.out, size=given.size, epochs=given.epochs, precision=precision, seconds=seconds, ratios=ratios)


if __name__ == "__main__":
    main()
