"""What to train next, and what it would cost: the seeds that would separate the pairs tied at the top."""

import math
import shlex
from dataclasses import dataclass

from trash_seg.report import stats
from trash_seg.report.board import Board, Group, Row

NUM_RIVALS = 5
MOST_SEEDS = 30
"""With more seeds than that the pairs are as good as tied."""


@dataclass(frozen=True)
class Step:
    """Seeds that would decide between the leader and one rival."""

    rival: Row
    difference: float
    """Leader's mean minus the rival's, mIoU."""
    seeds: int | None
    """For each of the two, those it has included; None where the difference is within the margin."""
    extra: dict[str, int]
    """Row name → seeds to add."""
    hours: float | None
    """Of training, one run after the other; None where no time is known."""
    commands: list[str]
    why: str


def what_next(board: Board) -> list[Step]:
    """One step for each of the first rivals by rank in the leading tier of group A.

    Where none of these can be decided with MOST_SEEDS, the first that can follows.
    """
    if not board.groups:
        return []
    group = board.groups[0]
    rivals = [row for row in group.rows[1:] if row.standing is not None and row.standing.tier == 1]
    steps = [_decide(group.leader, rival, group, num_tied=len(rivals) + 1, margin=board.margin) for rival in rivals]
    shown = steps[:NUM_RIVALS]
    if not any(step.commands for step in shown):
        shown += [step for step in steps[NUM_RIVALS:] if step.commands][:1]
    return shown


def _decide(leader: Row, rival: Row, group: Group, *, num_tied: int, margin: float) -> Step:
    assert leader.score is not None and rival.score is not None
    difference = leader.score - rival.score
    if difference <= margin:
        why = f"within the margin of {margin:g}: if they truly are so close, take the cheaper one"
        return Step(rival, difference, None, {}, None, [], why)
    needed = stats.seeds_needed(difference, group.noise, num_configurations=len(group.rows), num_tied=num_tied)
    seeds = max(math.ceil(needed), 2)
    if seeds > MOST_SEEDS:
        why = f"would take {seeds} seeds each: with the noise there is, as good as tied"
        return Step(rival, difference, seeds, {}, None, [], why)
    extra = [(row, max(0, seeds - len(row.done))) for row in (leader, rival)]
    times = [num * row.seconds for row, num in extra if row.seconds is not None]
    hours = sum(times) / 3600 if len(times) == len(extra) else None
    commands = [command(row, num) for row, num in extra if num]
    why = f"{seeds} seeds each separate them with a probability of {stats.POWER:.0%}, if the difference is real"
    if not commands:
        why = (
            f"{seeds} seeds each, which are there, would have done so in {stats.POWER:.0%} of cases; add one more each"
        )
        extra = [(row, 1) for row, _ in extra]
        commands = [command(row, 1) for row, _ in extra]
    return Step(rival, difference, seeds, {_label(row): num for row, num in extra}, hours, commands, why)


def _label(row: Row) -> str:
    return f"{row.name} {row.config}"


def command(row: Row, num: int) -> str:
    """The command that trains `num` more seeds of a configuration."""
    used = [run.seed for run in row.runs if run.seed is not None]
    seeds = range(max(used) + 1, max(used) + 1 + num)
    kept = [text for text in row.done[0].overrides if not text.lstrip("+").startswith("seed=")]
    return shlex.join(["python", "-m", "trash_seg.train", "-m", *kept, "seed=" + ",".join(map(str, seeds))])
