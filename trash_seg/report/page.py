"""`report.html`: one file that needs no network and sends nothing."""

import html
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trash_seg.palette import palette
from trash_seg.report import figures, stats, text
from trash_seg.report.advice import Step
from trash_seg.report.against import Comparison
from trash_seg.report.board import Board, Group, Row
from trash_seg.report.collect import Run, last_lines
from trash_seg.report.images import READ_ERRORS, Picture, bootstrap_images, confusion_of, explain, pictures
from trash_seg.report.noise import IDENTICAL, Floats
from trash_seg.report.reference import Published

NUM_TOP = 10
"""Rows that are looked at closely: confusion, images, probabilities, shown curves."""
MOST_FAILURES = 200
FAILURES = ("failed", "diverged", "unreadable")


@dataclass
class Content:
    """Everything that the page shows."""

    title: str
    board: Board
    steps: list[Step]
    published: list[Published] = field(default_factory=list)
    published_note: str = ""
    comparison: Comparison | None = None
    other: str = ""
    """Name of the other sweep."""


def render(content: Content) -> tuple[str, list[str]]:
    """The page, and a sentence on each thing that it could not show."""
    environment = Environment(
        loader=PackageLoader("trash_seg.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for function in (text.number, text.duration, text.millions, text.noise_sentence):
        environment.filters[function.__name__] = function
    environment.filters["unescape"] = html.unescape
    source = environment.loader
    assert source is not None

    def inline(name: str) -> Markup:
        """A file of our own as it is."""
        return Markup(source.get_source(environment, name)[0])

    board, missing = content.board, list[str]()
    group = board.groups[0] if board.groups else None
    top = group.rows[:NUM_TOP] if group is not None else []
    images, left_out = bootstrap_images(top)
    shown, confusions = _pictures(top, missing), _confusions(top, missing)
    missing += [f"Image bootstrap without {reason}" for reason in left_out]
    page = environment.get_template("report.html.j2").render(
        content=content, board=board, group=group, top=top, verdict=text.verdict(board), inline=inline,
        plotly=Markup(get_plotlyjs()), data=_data(content, confusions), images=images, pictures=shown,
        probabilities=_probabilities(group, len(top)), failures=_failures(board),
        scales={g.letter: _scale(g) for g in board.groups},
        states=Counter(run.state for run in board.runs),
        settings=_settings(board.rows), environments=_environments(board.runs), legend=_legend(board),
        confusion_labels=[name for name, _ in confusions], missing=missing, most_failures=MOST_FAILURES,
        class_rows=figures.NUM_CLASS_ROWS, curve_metrics=figures.CURVE_METRICS, costs=figures.COSTS,
        num_draws=stats.NUM_DRAWS, identical=IDENTICAL,
    )  # fmt: skip
    return page, missing


def _scale(group: Group) -> tuple[float, float]:
    """Lowest end and width of all intervals of a group, for the bars in the table."""
    standings = [row.standing for row in group.rows if row.standing is not None]
    low = min(s.ci_low for s in standings)
    return low, max(max(s.ci_high for s in standings) - low, 1e-9)


def _data(content: Content, confusions: list[tuple[str, figures.Figure]]) -> dict[str, Any]:
    """What the page's script draws."""
    board = content.board
    data: dict[str, Any] = {
        "curves": figures.curves(board),
        "metrics": figures.CURVE_METRICS,
        "published": figures.reference_curves(content.published),
        "heat_map": figures.heat_map(board),
        "confusion": [figure for _, figure in confusions],
    }
    if board.groups:
        data["cost"] = {axis: figures.cost(board.groups[0], axis) for axis in figures.COSTS}
        data["classes"] = figures.classes(board.groups[0], board.classes)
    return data


def _pictures(top: list[Row], missing: list[str]) -> list[Picture]:
    if not top:
        return []
    run = figures.best_run(top[0])
    try:
        return pictures(run)
    except READ_ERRORS as error:
        missing.append(f"No pictures of {run.name}: {explain(error)}")
        return []


def _confusions(top: list[Row], missing: list[str]) -> list[tuple[str, figures.Figure]]:
    """Label and figure of each row whose counts can be read."""
    found, lacking = [], []
    for label, row in zip(figures.labels(top), top, strict=True):
        try:
            found.append((label, figures.confusion(*confusion_of(row))))
        except READ_ERRORS as error:
            lacking.append((f"{row.name} {row.config}", explain(error)))
    if lacking:
        missing.append(f"No confusion matrix of {', '.join(name for name, _ in lacking)}. The first: {lacking[0][1]}")
    return found


def _probabilities(group: Group | None, num: int) -> Floats | None:
    if group is None or num < 2:
        return None
    return stats.probability_better(group.believed)[:num, :num]


def _failures(board: Board) -> list[tuple[Run, str]]:
    """Each failed run with the last lines of its log."""
    failed = [run for row in board.rows for run in row.runs if run.state in FAILURES]
    shown = [(run, "" if run.directory is None else last_lines(run.directory)) for run in failed[:MOST_FAILURES]]
    return shown + [(run, "") for run in failed[MOST_FAILURES:]]


def _settings(rows: list[Row]) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """Settings other than the pair that differ between rows: key → (value, number of rows, some of their names)."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    known = [row for row in rows if row.runs[0].config]
    for row in known:
        for key, value in _flat(row.runs[0].config, ""):
            values[key][value].append(row.name)
    result = []
    for key, by_value in sorted(values.items()):
        if (
            key in ("encoder.name", "decoder.name", "seed")
            or key.startswith(("runtime.", "sweep."))
            or len(by_value) < 2
        ):
            continue
        groups = [
            (value, len(names), ", ".join(names[:3]) + ("…" if len(names) > 3 else ""))
            for value, names in by_value.items()
        ]
        result.append((key, groups))
    return result


def _flat(settings: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    for key, value in settings.items():
        nested = isinstance(value, dict) and value
        items += (
            _flat(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", json.dumps(value, ensure_ascii=False))]
        )
    return items


def _environments(runs: list[Run]) -> list[tuple[int, dict[str, Any]]]:
    """Distinct environments with the number of runs in each, the most frequent first."""
    counts = Counter(json.dumps(run.environment, sort_keys=True) for run in runs if run.environment)
    return [(num, json.loads(key)) for key, num in counts.most_common()]


def _legend(board: Board) -> list[tuple[str, str]]:
    """Class names with the colours of the masks; those of group A's classes."""
    if not board.groups:
        return []
    names = list(board.groups[0].leader.iou)
    return [(name, f"rgb{color}") for name, color in zip(names, palette(len(names)), strict=True)]
