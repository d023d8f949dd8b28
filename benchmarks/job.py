"""One job, ours and the experiment log's way (`benchmarks/peer.py`), taking turns on the same data, pair and epochs.

    python -m benchmarks.job ../shared/data/trash190

Each is a process of its own, as a user starts it, and ours decodes into an empty cache each time. Printed are images/s
of training and of the whole job (imports, reading, training, validating, recording), medians and spread, ratios round
by round, and peak memory (the device's on CUDA, else the process's); then an ablation: what each part brings, switched
on one after the other.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation import ablate
from benchmarks.machine import RESULTS_DIR, job_settings, keep, precisions, spread
from trash_seg.rundir import RunDir

GOALS = {"bf16": 1.8, "fp32": 1.1}
"""On a CPU, geometric mean over pairs."""
CUDA_GOALS = {"resnext50_32x4d:DeepLabV3Plus": 2.5, "efficientnet-b3:Unet": 4.0}
CONTROLS = {"2 workers": ["runtime.num_workers=2"], "no cache": ["runtime.cache=false"]}
CUDA_CONTROLS = {"eager": ["runtime.step=eager"], "bf16, eager": ["training.precision=bf16", "runtime.step=eager"]}


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Seconds, peak memory and output of a process."""
    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = time.perf_counter()
    with (folder / "output").open("w+") as output, (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=output, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), log.seek(0)
        text = output.read()
        assert process.returncode == 0, f"{command}: {text}\n{log.read()}"
    return {"seconds": time.perf_counter() - started, "gigabytes": usage.ru_maxrss * 1024 / 1e9, "output": text}


def peer(pair: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    options = ["--pairs", pair, "--epochs", str(given.epochs), "--size", str(given.size), "--seed", str(given.seed)]
    done = run(["benchmarks.peer", str(given.data.resolve()), *options, "--workers", str(given.peer_workers)], folder)
    (result,) = json.loads(done.pop("output").splitlines()[-1])
    done["gigabytes"] = result["device_gigabytes"] or done["gigabytes"]
    epochs = result["epochs"]
    return {**done, "train": sum(epoch["train_seconds"] for epoch in epochs), "miou": max(e["miou"] for e in epochs)}


def ours(pair: str, given: argparse.Namespace, folder: Path, overrides: list[str]) -> dict[str, Any]:
    settings = [
        *job_settings(given.data, pair, size=given.size), f"training.epochs={given.epochs}", f"seed={given.seed}",
        f"runtime.cache_dir={folder}/cache", *overrides,
    ]  # fmt: skip
    done = run(["trash_seg.train", *settings], folder)
    done.pop("output")
    (path,) = (folder / "outputs" / "default").iterdir()
    history = RunDir(path).read_history()
    if torch.cuda.is_available():
        done["gigabytes"] = (RunDir(path).read_status() or {})["peak_memory_bytes"] / 1e9
    train_seconds = sum(float(row["train_seconds"]) for row in history)
    return {**done, "train": train_seconds, "miou": max(float(row["miou"]) for row in history)}


def measure(pair: str, given: argparse.Namespace, ways: dict[str, list[str] | None]) -> dict[str, list[dict[str, Any]]]:
    """Each way in each round; None stands for the peer. Rounds alternate in order, the peer is last in the first."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(1, given.rounds + 1):
        for name, overrides in list(ways.items())[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as name_of_folder:
                folder = Path(name_of_folder)
                done = peer(pair, given, folder) if overrides is None else ours(pair, given, folder, overrides)
            rounds[name].append(done)
            print(f"{pair} round {number}: {name:12} {done['seconds']:7.1f} s", file=sys.stderr, flush=True)
    return rounds


def show(pair: str, rounds: dict[str, list[dict[str, Any]]], *, num_train: int, num_images: int) -> dict[str, float]:
    """Prints a table. Returns the median ratio of the whole job's time to the peer's, way by way."""
    print(f"\n{pair}\n{'':12}{'train images/s':>24}{'job images/s':>24}{'ratio':>8}{'GB':>7}{'mIoU':>8}")
    ratios = {}
    for name, entries in rounds.items():
        pairs = zip(rounds["peer"], entries, strict=True)
        ratios[name] = statistics.median(theirs["seconds"] / own["seconds"] for theirs, own in pairs)
        train, job = [num_train / e["train"] for e in entries], [num_images / e["seconds"] for e in entries]
        memory, miou = max(e["gigabytes"] for e in entries), statistics.median(e["miou"] for e in entries)
        print(f"{name:12}{spread(train):>24}{spread(job):>24}{ratios[name]:8.2f}{memory:7.2f}{miou:8.4f}", flush=True)
    return ratios


def count_images(root: Path) -> tuple[int, int]:
    train, val = (len(json.loads((root / f"{part}.json").read_text())["images"]) for part in ("train", "val"))
    return train // 8 * 8, val


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", default="resnext50_32x4d:DeepLabV3Plus,efficientnet-b3:Unet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=21)
    on_cuda = torch.cuda.is_available()
    workers = 8 if on_cuda else 4
    parser.add_argument("--peer-workers", type=int, default=workers, help="loader processes of the peer (%(default)s)")
    parser.add_argument("--precisions", default=precisions(), help="of our job (%(default)s)")
    parser.add_argument("--controls", action="store_true", help="also ways that are not expected to pay")
    parser.add_argument("--ablation-rounds", type=int, default=3, help="epochs of each step; 0 for none (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "job.json")
    given = parser.parse_args()
    ways: dict[str, list[str] | None] = {"peer": None}
    ways |= {name: [f"training.precision={name}"] for name in given.precisions.split(",")}
    if given.controls:
        ways |= CONTROLS | (CUDA_CONTROLS if on_cuda else {})
    num_train, num_val = count_images(given.data)
    results: dict[str, Any] = {}
    for command in (["benchmarks.peer", "--help"], ["trash_seg.train", "--help"]):  # what both import is read from disk
        with tempfile.TemporaryDirectory() as folder:
            run(command, Path(folder))
    for pair in given.pairs.split(","):
        rounds = measure(pair, given, ways)
        ratios = show(pair, rounds, num_train=num_train * given.epochs, num_images=(num_train + num_val) * given.epochs)
        results[pair] = {"rounds": rounds, "ratios": ratios}
        if given.ablation_rounds:
            results[pair]["ablation"] = ablate(pair, given.data, size=given.size, rounds=given.ablation_rounds)
        if on_cuda and pair in CUDA_GOALS:
            print(f"goal {CUDA_GOALS[pair]} × the peer")
    for name, goal in GOALS.items():
        if name in ways and not on_cuda:
            ratio = math.exp(statistics.fmean(math.log(result["ratios"][name]) for result in results.values()))
            print(f"whole job, {name}, geometric mean over pairs: {ratio:.2f} × the peer (goal {goal} on a CPU)")
    keep(given.out, size=given.size, epochs=given.epochs, peer_workers=given.peer_workers, results=results)


if __name__ == "__main__":
    main()
