"""Successive halving: all runs train for an epoch, the better half goes on to two, the better half of these to four.

Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016). Runs go on from their checkpoints under the
learning rates of the whole run, so that those that reach the end equal full runs, bit for bit. What is decided follows
from the histories alone: the same command, given again after any interruption, decides the same and goes on.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from statistics import fmean

from rich import get_console

from trash_seg.config import OUTSIDE_IDENTITY, Config
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
        self.dropped: set[str] = set()

    def describe(self, plan: Plan) -> list[str]:
        """How many configurations each rung trains.

        Raises:
            ConfigError: Runs whose scores cannot be compared, or somebody else sets `sweep.stop_epoch`.
        """
        runs = _competitors(plan)
        if any(run.config.sweep.stop_epoch is not None for run in runs):
            raise ConfigError("sweep.stop_epoch: hydra/sweeper=halving sets it itself")
        settings = [_common(run.config) for run in runs]
        if not settings:
            return []
        for key, (_, kind) in settings[0].items():
            values = {str(setting[key][0]) for setting in settings}
            if len(values) > 1:
                text = ", ".join(sorted(values, key=lambda value: (len(value), value)))
                raise ConfigError(f"{key}={text}: halving compares runs of one {kind}; sweep over one at a time")
        epochs, num = runs[0].config.training.epochs, len({run.config.hash for run in runs})
        seeds, steps, total, before = len(runs) / num, [], 0, 0
        for rung in rungs(epochs, first=self.first_epochs):
            steps.append(f"{num} to epoch {rung}")
            total, before, num = total + num * (rung - before), rung, math.ceil(num / 2)
        share = f"{total * seeds:.0f} of {len(runs) * epochs} epochs"
        return [f"  halving of configurations: {', '.join(steps)}; {share}"]

    def work(self, plan: Plan, launch: Launch) -> None:
        """Launches rung after rung."""
        kept = _competitors(plan)
        epochs = kept[0].config.training.epochs if kept else 0
        for rung in rungs(epochs, first=self.first_epochs):
            configurations = len({run.config.hash for run in kept})
            get_console().print(f"{configurations} configurations ({len(kept)} runs) to epoch {rung}", highlight=False)
            if not launch([_until(run, rung) for run in kept if run.reason is None and not _reached(run, rung)]):
                return
            kept = [run for run in kept if len(_history(run)) >= rung or _state(run) not in ("unsupported", *FAILED)]
            if rung == epochs or any(len(_history(run)) < rung for run in kept):  # some went on without us: see summary
                return
            scores: dict[str, list[float]] = defaultdict(list)
            for run in kept:
                scores[run.config.hash].append(best_until(_history(run), rung))
            chosen = better_half({key: fmean(values) for key, values in scores.items()})
            dropped = {run.files.name for run in kept if run.config.hash not in chosen}
            if dropped:
                line = f"pruned at epoch {rung}: {', '.join(sorted(dropped))}"
                get_console().print(line, markup=False, highlight=False, soft_wrap=True)
            self.dropped |= dropped
            kept = [run for run in kept if run.config.hash in chosen]


def _competitors(plan: Plan) -> list[PlannedRun]:
    """Those that are to run, longest first, and those that did what they could: each counts at the rungs it reached."""
    return [*plan.to_run, *(run for run in plan.runs if run.reason is not None and run.state in ("done", *FAILED))]


def _common(config: Config) -> dict[str, tuple[object, str]]:
    """What runs must share for one score to be better than another: key → value, and what it decides."""
    data = {f"data.{field.name}": getattr(config.data, field.name) for field in fields(config.data)}
    return {
        "training.epochs": (config.training.epochs, "length"),
        "training.image_size": (config.training.image_size, "image size"),
        **{key: (value, "dataset and split") for key, value in data.items() if key not in OUTSIDE_IDENTITY},
    }


def _until(run: PlannedRun, epoch: int) -> PlannedRun:
    """The run as one that ends after an epoch."""
    if epoch == run.config.training.epochs:
        return run
    sweep = replace(run.config.sweep, stop_epoch=epoch)
    overrides = [*run.overrides, f"sweep.stop_epoch={epoch}"]
    return replace(run, config=replace(run.config, sweep=sweep), overrides=overrides)


def _reached(run: PlannedRun, epoch: int) -> bool:
    """Whether it stands at this epoch, in a state that says so, or went beyond it in an earlier command."""
    num_epochs, state = len(_history(run)), _state(run)
    return state not in FAILED and (num_epochs > epoch or (num_epochs == epoch and state in ("pruned", "done")))


def _state(run: PlannedRun) -> str | None:
    """A directory that cannot be read fails its run alone; the summary says why."""
    try:
        return (run.files.read_status() or {}).get("state")
    except (ValueError, OSError):
        return "failed"


def _history(run: PlannedRun) -> list[dict[str, str]]:
    try:
        return run.files.read_history()
    except (ValueError, OSError):
        return []
