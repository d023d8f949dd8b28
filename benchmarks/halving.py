"""What successive halving would have saved and lost, replayed over full histories.

    python -m benchmarks.halving outputs/default
    python -m benchmarks.halving log210501

Takes the folder of a sweep, or published curves. Regret is the best mIoU of all runs less the best of those that
halving keeps to the end. Random subsets show how it depends on which pairs were swept.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from trash_seg.report.collect import collect
from trash_seg.report.reference import read_reference
from trash_seg.sweep.halving import better_half, rungs


def read_curves(given: str) -> dict[str, list[float]]:
    """Run or pair → mIoU by epoch, of those that went to the last epoch."""
    if Path(given).is_dir():
        runs = [run for run in collect(Path(given)) if run.state == "done"]
        curves = {run.name: [value for value in run.curves["miou"] if value is not None] for run in runs}
    else:
        curves = {f"{entry.encoder}-{entry.decoder}": entry.curve for entry in read_reference(given)[0]}
    longest = max(map(len, curves.values()), default=0)
    return {name: curve for name, curve in curves.items() if len(curve) == longest and longest > 0}


def replay(curves: dict[str, list[float]], *, first: int) -> tuple[int, float]:
    """Epochs trained, and the regret."""
    kept, trained, before = dict(curves), 0, 0
    schedule = rungs(len(next(iter(curves.values()))), first=first)
    for rung in schedule:
        trained, before = trained + len(kept) * (rung - before), rung
        if rung != schedule[-1]:
            kept = {name: curves[name] for name in better_half({n: max(c[:rung]) for n, c in kept.items()})}
    return trained, max(map(max, curves.values())) - max(map(max, kept.values()))


def describe(regrets: Sequence[float]) -> str:
    ordered = sorted(regrets)
    found = sum(regret == 0 for regret in regrets) / len(regrets)
    high = ordered[int(0.95 * (len(ordered) - 1))]
    return f"best found {found:.0%}, mean regret {statistics.fmean(regrets):.4f}, 95 % below {high:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("histories", help="a sweep's folder, a CSV file of curves, or log210501")
    parser.add_argument("--first-epochs", type=int, default=1)
    parser.add_argument("--subset", type=int, default=12, help="runs in a random subset (%(default)s)")
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    curves = read_curves(given.histories)
    assert len(curves) > 1, f"{given.histories}: fewer than two full histories"
    full = sum(map(len, curves.values()))
    trained, regret = replay(curves, first=given.first_epochs)
    saved = f"{trained} of {full} epochs ({1 - trained / full:.0%} saved)"
    print(f"{len(curves)} full histories: {saved}, regret {regret:.4f}")
    size, names = min(given.subset, len(curves)), sorted(curves)
    draw = random.Random(0)
    subsets = [{n: curves[n] for n in draw.sample(names, size)} for _ in range(given.draws)]
    outcomes = [replay(subset, first=given.first_epochs) for subset in subsets]
    share = statistics.fmean(trained for trained, _ in outcomes) / (size * len(curves[names[0]]))
    print(f"{given.draws} subsets of {size}: {1 - share:.0%} saved, {describe([regret for _, regret in outcomes])}")


if __name__ == "__main__":
    main()
