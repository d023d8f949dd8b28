"""Successive halving: all runs train for an epoch, the better half goes on to two, the better half of these to four.

Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016). Runs go on from their checkpoints under the
learning rates of the whole run, so that those that reach the end equal full runs, bit for bit. What is decided follows
from the histories alone: the same command, given again after any interruption, decides the same and goes on.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from rich import get_console

from trash_seg.errors import ConfigError
from trash_seg.sweep.grid import Launch
from trash_seg.sweep.plan import FAILED, Plan, PlannedRun


def rungs(epochs: int, *, first: int) -> list[int]:
    """Epochs at which a cut is made, doubling from the first, and the last epoch."""
    doubling = itertools.takewhile(lambda epoch: epoch < epochs, (first * 2**i for i in itertools.count()))
    return [*doubling, epochs] if epochs else []


def better_half(scores: Mapping[str, float]) -> list[str]:
    """The half of the keys with the higher scores, rounded up, best first."""
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return order[: math.ceil(len(order) / 2)]


def best_until(history: Sequence[Mapping[str, str]], epoch: int) -> float:
    """The highest mIoU in the first epochs of a history."""
    return max(float(row["miou"]) for row in history[:epoch])


class Halving:
    """A portion of the plan's runs for each rung. Configurations compete by the mean over their seeds."""

    def __init__(self, *, first_epochs: int) -> None:
        if first_epochs < 1:
            raise ConfigError(f"hydra.sweeper.first_epochs={first_epochs}: must be >= 1")
        self.first_epochs = first_epochs

    def describe(self, plan: Plan) -> list[str]:
        """How many configurations each rung trains.

        Raises:
            ConfigError: Runs of several lengths, or somebody else sets `sweep.stop_epoch`.
        """
        runs = _competitors(plan)
        if any(run.config.sweep.stop_epoch is not None for run in runs):
            raise ConfigError("sweep.stop_epoch: hydra/sweeper=halving sets it itself")
        lengths = {run.config.training.epochs for run in runs}
        if len(lengths) > 1:
            text = ", ".join(str(length) for length in sorted(lengths))
            raise ConfigError(f"training.epochs={text}: halving compares runs of one length; sweep over one at a time")
        if not runs:
            return []
        (epochs,), num = lengths, len({run.config.hash for run in runs})
        seeds, steps, total, before = len(runs) / num, [], 0, 0
        for rung in rungs(epochs, first=self.first_epochs):
            steps.append(f"{num} to epoch {rung}")
            total, before, num = total + num * (rung - before), rung, math.ceil(num / 2)
        share = f"{total * seeds:.0f} of {len(runs) * epochs} epochs"
        return [f"  halving of configurations: {', '.join(steps)}; {share}"]

    def work(self, plan: Plan, launch: Launch) -> set[str]:
        """Launches rung after rung. Returns the names of the runs that were dropped on the way."""
        kept = _competitors(plan)
        dropped: set[str] = set()
        epochs = kept[0].config.training.epochs if kept else 0
        for rung in rungs(epochs, first=self.first_epochs):
            configurations = len({run.config.hash for run in kept})
            get_console().print(f"{configurations} configurations ({len(kept)} runs) to epoch {rung}", highlight=False)
            launch([_until(run, rung) for run in kept if not _reached(run, rung)])
            kept = [run for run in kept if _state(run) not in ("unsupported", *FAILED)]
            if not all(_reached(run, rung) for run in kept):  # asked to stop: the same command goes on here
                return dropped
            if rung == epochs:
                break
            scores: dict[str, list[float]] = defaultdict(list)
            for run in kept:
                scores[run.config.hash].append(best_until(run.files.read_history(), rung))
            chosen = better_half({key: fmean(values) for key, values in scores.items()})
            dropped |= {run.files.name for run in kept if run.config.hash not in chosen}
            kept = [run for run in kept if run.config.hash in chosen]
        return dropped


def _competitors(plan: Plan) -> list[PlannedRun]:
    """Those that are to run, longest first, and those that are done already."""
    return [*plan.to_run, *(run for run in plan.runs if run.state == "done")]


def _until(run: PlannedRun, epoch: int) -> PlannedRun:
    """The run as one that ends after an epoch."""
    if epoch == run.config.training.epochs:
        return run
    sweep = replace(run.config.sweep, stop_epoch=epoch)
    overrides = [*run.overrides, f"sweep.stop_epoch={epoch}"]
    return replace(run, config=replace(run.config, sweep=sweep), overrides=overrides)


def _reached(run: PlannedRun, epoch: int) -> bool:
    """Whether it stands at this epoch, in a state that says so, or went beyond it in an earlier command."""
    num_epochs = len(run.files.read_history())
    return num_epochs > epoch or (num_epochs == epoch and _state(run) in ("pruned", "done"))


def _state(run: PlannedRun) -> str | None:
    return (run.files.read_status() or {}).get("state")
