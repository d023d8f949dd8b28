"""The learning rate as a pure function of the step, so that a resumed run follows the same curve."""

import math

from trash_seg.config import SchedulerConfig

ONECYCLE_RISE, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1 / 25e4
"""torch.optim.lr_scheduler.OneCycleLR's defaults: share of the steps that rise, first and last factor."""


def lr_factor(config: SchedulerConfig, step: int, *, steps_per_epoch: int, num_steps: int) -> float:
    """The factor of `optimizer.lr` at a step.

    Args:
        config: Which curve.
        step: 0 to num_steps - 1.
        steps_per_epoch: To turn `warmup_epochs` into steps.
        num_steps: Of the whole run.
    """
    if config.name == "onecycle":
        return _onecycle(step, num_steps=num_steps)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(num_steps - warmup, 1)
    match config.name:
        case "cosine":
            shape = (1 + math.cos(math.pi * progress)) / 2
        case "poly":
            shape = (1 - progress) ** config.power
        case _:
            return 1.0
    return config.min_factor + (1 - config.min_factor) * shape


def _onecycle(step: int, *, num_steps: int) -> float:
    """Smith and Topin, "Super-Convergence" (2018), with cosine arcs, step for step as torch has it."""
    peak, end = ONECYCLE_RISE * num_steps - 1, num_steps - 1
    if step <= peak:
        return _cosine_arc(ONECYCLE_START, 1.0, step / peak)
    return _cosine_arc(1.0, ONECYCLE_END, (step - peak) / (end - peak))


def _cosine_arc(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
