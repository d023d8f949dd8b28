"""The kill test: a sweep killed at random moments, over and over, ends as if it had never been.

    python -m tests.sweep.kill --kills 60

Each time, the launcher and all its jobs die by SIGKILL and the same command is given again. At the end every history
and every tensor of the final weights is compared with those of an unbroken sweep, bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from trash_seg.rundir import TIME_COLUMNS, RunDir

ROOT = Path(__file__).parents[2]
GRID = (
    "-m", "encoder=resnet18,mobilenet_v2", "decoder=FPN,Unet,Linknet", "training.image_size=32", "runtime.device=cpu",
    "runtime.num_threads=1",
)  # fmt: skip


@dataclass
class Figures:
    """What a killed sweep is judged by."""

    kills: int = 0
    kills_in_training: int = 0
    """Those that hit at least one run in its training."""
    epochs_trained_twice: int = 0
    """Finished epochs whose row in the history was written anew: with other times."""
    most_epochs_lost: int = 0
    """By one run in one kill: the one under way, and any that was finished."""
    equal_histories: int = 0
    equal_weights: int = 0
    runs: int = 0

    @property
    def good(self) -> bool:
        return (
            self.runs == self.equal_histories == self.equal_weights
            and self.runs > 0
            and self.epochs_trained_twice == 0
            and self.most_epochs_lost <= 1
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="how often the sweep is killed before it may end")
    parser.add_argument("--epochs", type=int, default=100, help="of each of the 6 runs")
    parser.add_argument("--longest", type=float, help="seconds until a kill (default: 1.5 times the first epoch's end)")
    parser.add_argument("--seed", type=int, default=21, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where both sweeps are kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = compare(
            options.folder or Path(temporary), kills=options.kills, epochs=options.epochs, longest=options.longest,
            moments=random.Random(options.seed),
        )  # fmt: skip
    early = (
        f" (asked for {options.kills}: the sweep was done before; more --epochs)"
        if figures.kills < options.kills
        else ""
    )
    print(f"{figures.kills} kills{early}, {figures.kills_in_training} of them in mid-training")
    print(f"histories equal to the unbroken sweep's: {figures.equal_histories} of {figures.runs}")
    print(f"final weights equal, bit for bit: {figures.equal_weights} of {figures.runs}")
    print(f"finished epochs trained again: {figures.epochs_trained_twice}")
    print(f"most unfinished epochs lost by a run in a kill: {figures.most_epochs_lost}")
    return 0 if figures.good else 1


def compare(folder: Path, *, kills: int, epochs: int, moments: random.Random, longest: float | None = None) -> Figures:
    """Trains the grid unbroken and broken, under `folder`."""
    unbroken, broken = folder / "unbroken", folder / "broken"
    for path in (unbroken, broken):
        path.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    process = start(unbroken, epochs)
    while not any(rows_of(unbroken).values()) and process.poll() is None:
        time.sleep(0.1)
    longest = longest or 1.5 * (time.monotonic() - began)
    process.wait()
    figures = Figures()
    before = rows_of(broken)
    while figures.kills < kills:
        started = time.time()
        process = start(broken, epochs)
        try:
            # From the launcher's first breath to some epochs on: every kind of moment, and a sweep that lasts.
            if moments.random() < 0.5:
                process.wait(timeout=moments.uniform(0.5, longest))
            else:
                while rows_of(broken) == before and process.poll() is None:
                    time.sleep(0.02)
                process.wait(timeout=moments.uniform(0, 1))
        except subprocess.TimeoutExpired:
            running = [path for path in runs(broken) if state_of(path) == "running" and touched(path) >= started]
            kill_tree(process.pid)
            process.wait()
            figures.kills += 1
            figures.kills_in_training += bool(running)
            before = note(figures, before, rows_of(broken), running)
        else:
            break
    start(broken, epochs).wait()
    note(figures, before, rows_of(broken), [])
    for path in runs(unbroken):
        other = broken / path.relative_to(unbroken)
        figures.runs += 1
        figures.equal_histories += untimed(path) == untimed(other)
        figures.equal_weights += weights(path) == weights(other)
    return figures


def start(folder: Path, epochs: int) -> subprocess.Popen[bytes]:
    """The sweep's command, as a user gives it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trash_seg.train", *GRID, f"training.epochs={epochs}"]
    with (folder / "console.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_tree(root: int) -> None:
    """SIGKILL to a process and all it has started. It is stopped first, so that it cannot look on while they die."""
    os.kill(root, signal.SIGSTOP)
    for pid in [root, *descendants(root)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "outputs" / "default").glob("*/status.json"))


def state_of(path: Path) -> str | None:
    return (RunDir(path).read_status() or {}).get("state")


def touched(path: Path) -> float:
    """When the status was written, in seconds since the epoch: a run that was killed earlier reads `running` too."""
    return RunDir(path).status_path.stat().st_mtime


def rows_of(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {path.name: RunDir(path).read_history() for path in runs(folder)}


def untimed(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in RunDir(path).read_history()]


def weights(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor's type, shape and bytes; the file itself has its notes in any order."""
    tensors = load_file(RunDir(path).best_path)
    return {name: (str(tensor.dtype), tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}


def note(
    figures: Figures, before: dict[str, list[dict[str, str]]], now: dict[str, list[dict[str, str]]], running: list[Path]
) -> dict[str, list[dict[str, str]]]:
    """Counts rows that were there and are no more, or not the same: an epoch that was trained again has other times."""
    for name, rows in before.items():
        vanished = sum(row not in now.get(name, []) for row in rows)
        figures.epochs_trained_twice += vanished
        figures.most_epochs_lost = max(figures.most_epochs_lost, 1 + vanished)
    if running:
        figures.most_epochs_lost = max(figures.most_epochs_lost, 1)
    return now


if __name__ == "__main__":
    sys.exit(main())
