"""The leaderboard as CSV, Markdown and console table."""

import csv
import html
import io
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trash_seg.report.advice import Step
from trash_seg.report.board import Board, Group, Row
from trash_seg.report.collect import Run

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
NUM_CONSOLE_ROWS = 30
WIDE = 110
"""Columns of a terminal from which on more is shown."""


def cell(value: Any) -> str:
    """A value as a CSV cell: None is empty; an apostrophe goes before what a spreadsheet would take for a formula."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    formula = text.lstrip().startswith(FORMULA_STARTS) or text.startswith(("\t", "\r"))
    return f"'{text}" if formula else text


def record(row: Row, classes: Sequence[str]) -> dict[str, Any]:
    """A row of `leaderboard.csv`: column → value, None where a number does not exist."""
    standing, iou = row.standing, row.iou

    def of(attribute: str) -> Any:
        return None if standing is None else getattr(standing, attribute)

    return {
        "tier": of("tier"),
        "rank": of("rank"),
        "rank_low": of("rank_low"),
        "rank_high": of("rank_high"),
        "encoder": row.encoder,
        "decoder": row.decoder,
        "weights": row.pretraining,
        "config": row.config,
        "num_seeds": len(row.done),
        "miou": row.mean("miou"),
        "miou_sd": of("sd"),
        "ci_low": of("ci_low"),
        "ci_high": of("ci_high"),
        "miou_last": row.mean("miou", "last"),
        "miou_image": row.mean("miou_image"),
        "miou_batch": row.mean("miou_batch"),
        **{f"iou_{name}": iou.get(name) for name in classes},
        "parameters": row.parameters,
        "gflops": row.gflops,
        "train_seconds": row.seconds,
        "state": row.state,
        "flags": "; ".join(row.flags),
        "group": row.group,
        "ranked_by": row.rank_by,
        "p_first": of("p_first"),
    }


def write_csv(records: Sequence[dict[str, Any]]) -> str:
    """Records with the same keys as CSV text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([cell(key) for key in records[0]])
    writer.writerows([cell(value) for value in item.values()] for item in records)
    return buffer.getvalue()


def leaderboard_csv(board: Board) -> str:
    """`leaderboard.csv`."""
    return write_csv([record(row, board.classes) for row in board.rows])


def number(value: float | None, form: str = ".4f") -> str:
    """A number to be read by people; a dash where there is none."""
    return "–" if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """12 s, 3.4 min or 5.6 h."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def millions(parameters: int | None) -> str:
    """24.1 M."""
    return "–" if parameters is None else f"{parameters / 1e6:.1f} M"


def noise_sentence(group: Group) -> str:
    """Sigma with where it comes from."""
    noise = group.noise
    if noise.assumed:
        return f"Noise between seeds: sigma = {noise.sigma:.4f} mIoU, {noise.why}."
    certainty = f"95 % interval {noise.low:.4f} to {noise.high:.4f}, {noise.df:.0f} df"
    return f"Noise between seeds: sigma = {noise.sigma:.4f} mIoU ({certainty}), {noise.why}."


def verdict(board: Board) -> str:
    """The answer in one or two sentences."""
    if not board.groups:
        return "No run is done yet, so nothing is ranked."
    group = board.groups[0]
    where = "" if len(board.groups) == 1 else f"Group {group.letter}, one of {len(board.groups)}: "
    noise = " (the noise is assumed, not measured)" if group.noise.assumed and len(group.rows) > 1 else ""
    return f"{where}{_verdict(group)}{noise}."


def _verdict(group: Group) -> str:
    first = [row for row in group.rows if row.standing is not None and row.standing.tier == 1]
    leader, num = group.leader, len(group.rows)
    miou = f"mIoU {number(leader.score)}"
    if num == 1:
        return f"{leader.name} is the only configuration with a result: {miou}"
    if len(first) == 1:
        return f"{leader.name} is better than the other {num - 1}: {miou}, alone in tier 1"
    if len(first) == num:
        return f"All {num} configurations are tied, none is separated from {leader.name}: {miou}"
    return (
        f"{len(first)} of {num} configurations are tied for best (tier 1); {leader.name} has the highest mean, {miou}; "
        f"the other {num - len(first)} are worse than the best"
    )


def print_console(board: Board, console: Console) -> None:
    """The leaderboard as a table, its head only where it is long."""
    several, wide = len(board.groups) > 1, console.width >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    left = ("model", "state")
    names = ["tier", "rank", *(["group"] if several else []), "model", "seeds", "mIoU", "± 95 %"]
    for name in [*names, *(["params"] if wide else []), "time", "state"]:
        table.add_column(name, no_wrap=name != "model", overflow="fold", justify="left" if name in left else "right")
    for row in board.rows[:NUM_CONSOLE_ROWS]:
        s = row.standing
        span = f" ({s.rank_low}–{s.rank_high})" if s is not None and wide else ""
        values = ["–", "–"] if s is None else [str(s.tier), f"{s.rank}{span}"]
        values += [row.group] if several else []
        values += [escape(_line(row.name)), str(len(row.done)), number(row.score)]
        values += ["–" if s is None else f"{(s.ci_high - s.ci_low) / 2:.4f}"]
        values += [millions(row.parameters)] if wide else []
        table.add_row(*values, duration(row.seconds), escape(row.state))
    console.print(table)
    hidden = len(board.rows) - NUM_CONSOLE_ROWS
    if hidden > 0:
        console.print(f"… and {hidden} more rows in leaderboard.csv")
    console.print()
    console.print(escape(_line(verdict(board))))
    for group in board.groups:
        console.print((f"Group {group.letter}: " if several else "") + escape(noise_sentence(group)))


def _line(text: str) -> str:
    """Without line breaks and other control characters, so that a name cannot steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "�", text)


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = html.escape(_line(text), quote=False)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", escaped)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def report_markdown(board: Board, *, title: str, steps: Sequence[Step]) -> str:
    """`report.md`: the leaderboard, then each run in the form of an experiment log, folded."""
    lines = [f"# {markdown(title)}", "", markdown(verdict(board)), ""]
    for group in board.groups:
        lines += [f"- Group {group.letter}: {markdown(noise_sentence(group))}"]
    lines += ["", "## Leaderboard", ""]
    header = ["tier", "rank", "group", "encoder", "decoder", "weights", "seeds", f"mIoU {board.rank_by}"]
    header += ["95 % interval", f"mIoU {board.not_ranked_by}", "parameters", "GFLOPs", "time", "state", "flags"]
    lines += _table(header, [_leaderboard_cells(row, board) for row in board.rows])
    if steps:
        lines += ["", "## What next", "", *_advice(steps)]
    lines += ["", "## Runs", ""]
    for row in board.rows:
        for run in row.runs:
            lines += _experiment(run)
    return "\n".join(lines) + "\n"


def _advice(steps: Sequence[Step]) -> list[str]:
    lines = []
    for step in steps:
        hours = "" if step.hours is None else f", about {step.hours:.1f} h of training"
        lines += [f"- against {markdown(step.rival.name)} ({step.difference:+.4f}): {markdown(step.why)}{hours}", ""]
        lines += [line for command in step.commands for line in (f"      {_line(command)}", "")]
    return lines


def _leaderboard_cells(row: Row, board: Board) -> list[str]:
    s = row.standing
    rank = "–" if s is None else f"{s.rank} ({s.rank_low}–{s.rank_high})"
    interval = "–" if s is None else f"{s.ci_low:.4f}–{s.ci_high:.4f}"
    names = [markdown(text) or "–" for text in (row.encoder, row.decoder, row.pretraining)]
    scores = [number(row.score), interval, number(row.mean("miou", board.not_ranked_by))]
    costs = [millions(row.parameters), number(row.gflops, ".1f"), duration(row.seconds)]
    tier = "–" if s is None else str(s.tier)
    return [
        tier,
        rank,
        row.group or "–",
        *names,
        str(len(row.done)),
        *scores,
        *costs,
        row.state,
        markdown("; ".join(row.flags)),
    ]


def _experiment(run: Run) -> list[str]:
    title = f"{run.encoder} {run.decoder}, seed {run.seed}, {run.state}"
    best = "" if run.best is None else f", mIoU {run.best.miou:.4f}"
    weights = run.weights or ("none" if run.config else "–")
    values = ", ".join(number(value, ".6f") for value in run.curves.get("miou", ()))
    lines = [f"<details><summary>{html.escape(_line(title))}{best}</summary>", ""]
    lines += [f"- encoder : {markdown(run.encoder)}", f"- decoder : {markdown(run.decoder)}"]
    lines += [f"- encoder weights : {markdown(weights)}", f"- spent time : {number(run.seconds, '.1f')} s"]
    lines += [f"- valid mIoU : \\[{values}\\]", f"- run : {markdown(run.name)}"]
    if run.reason is not None:
        lines += [f"- reason : {markdown(run.reason)}"]
    return [*lines, "", "</details>", ""]
