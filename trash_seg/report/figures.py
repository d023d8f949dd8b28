"""Figures as plotly's own JSON, without colours of text and paper: the page adds these for light, dark and print."""

import html
from collections.abc import Sequence
from typing import Any

from trash_seg.report.board import Board, Group, Row
from trash_seg.report.collect import Run
from trash_seg.report.images import Counts
from trash_seg.report.reference import Published
from trash_seg.report.text import duration, millions, number

Figure = dict[str, Any]

CURVE_METRICS = {
    "miou": "mIoU",
    "miou_image": "mIoU per image",
    "val_loss": "validation loss",
    "train_loss": "training loss",
}
COSTS = {"parameters": "parameters, millions", "gflops": "GFLOPs for one image", "minutes": "training time, minutes"}
NUM_CLASS_ROWS = 40
MOST_LABELLED_CELLS = 1000
STATE_MARKS = {
    "failed": "✕", "diverged": "✕", "running": "…", "interrupted": "…", "pruned": "✂", "unreadable": "!",
    "missing": "–",
}  # fmt: skip
MARGINS = {"l": 10, "r": 10, "t": 10, "b": 10}


def label(text: str, *, longest: int = 40) -> str:
    """Text as plotly shows it unchanged: its labels know a few HTML tags."""
    return html.escape(text if len(text) <= longest else text[: longest - 1] + "…", quote=False)


def row_label(row: Row) -> str:
    """Encoder and decoder, with the config's hash only where that is needed: see `labels`."""
    return label(row.name, longest=60)


def labels(rows: Sequence[Row]) -> list[str]:
    """One distinct label for each row."""
    names = [row_label(row) for row in rows]
    return [f"{name} {row.config}" if names.count(name) > 1 else name for name, row in zip(names, rows, strict=True)]


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def curves(board: Board) -> list[dict[str, Any]]:
    """For each row with an epoch: label, `row` (its index in the board) and metric → mean, low and high over seeds."""
    names = labels(board.rows)
    result = []
    for index, row in enumerate(board.rows):
        runs = [run for run in row.done or row.runs if run.curves]
        if runs:
            metrics = {metric: _band([run.curves[metric] for run in runs]) for metric in CURVE_METRICS}
            place = None if row.standing is None else row.standing.rank
            result.append({"row": index, "label": names[index], "rank": place, "group": row.group, "metrics": metrics})
    return result


def _band(series: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Mean, smallest and largest for each epoch, over the runs that reached it."""
    longest = max(len(values) for values in series)
    columns = [[s[i] for s in series if i < len(s) and s[i] is not None] for i in range(longest)]
    known = [[value for value in column if value is not None] for column in columns]
    band = {"mean": _rounded([sum(k) / len(k) if k else None for k in known])}
    if len(series) > 1:
        band["low"] = _rounded([min(k, default=None) for k in known])
        band["high"] = _rounded([max(k, default=None) for k in known])
    return band


def reference_curves(published: Sequence[Published]) -> list[Figure]:
    """Traces of published curves."""
    return [
        {
            "type": "scatter", "mode": "lines", "x": list(range(1, len(item.curve) + 1)), "y": item.curve,
            "name": "published", "legendgroup": "published", "showlegend": number == 0, "opacity": 0.5,
            "line": {"width": 1, "color": "#8b95a1"},
            "hovertemplate": f"{label(item.encoder)} {label(item.decoder)}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        }
        for number, item in enumerate(item for item in published if item.curve)
    ]  # fmt: skip


def grid(board: Board) -> tuple[list[str], list[str], list[list[Row | None]]]:
    """Encoders, decoders (the best first) and for each pair its best row of group A, or one that has no score."""
    group = board.groups[0].letter if board.groups else ""
    rows = [row for row in board.rows if row.group in (group, "")]
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: -1.0 if row.score is None else row.score):
        best[row.encoder, row.decoder] = row
    encoders, decoders = (_by_best(best, axis) for axis in (0, 1))
    return encoders, decoders, [[best.get((encoder, decoder)) for decoder in decoders] for encoder in encoders]


def heat_map(board: Board) -> Figure:
    """Encoder × decoder: the best score of group A; grey where there is none, with a mark for the state."""
    encoders, decoders, rows = grid(board)
    scores = [[None if row is None or row.score is None else round(row.score, 5) for row in line] for line in rows]
    others = [[0 if row is not None and row.score is None else None for row in line] for line in rows]
    texts = [["" if row is None or row.score is not None else _mark(row) for row in line] for line in rows]
    labelled = len(encoders) * len(decoders) <= MOST_LABELLED_CELLS
    axes = {"x": [label(d) for d in decoders], "y": [label(e) for e in encoders], "xgap": 1, "ygap": 1}
    hover = {
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hovertext": [[_hover(row) for row in line] for line in rows],
    }
    measured = {
        "type": "heatmap", "z": scores, "colorscale": "Viridis", "colorbar": _colorbar("mIoU"),
        "texttemplate": "%{z:.3f}" if labelled else "", **axes, **hover,
    }  # fmt: skip
    states = {
        "type": "heatmap", "z": others, "zmin": 0, "zmax": 1, "showscale": False,
        "text": texts, "texttemplate": "%{text}", "textfont": {"color": "#7f8a97"},
        "colorscale": [[0, "rgba(128,128,128,0.25)"], [1, "rgba(128,128,128,0.25)"]], **axes, **hover,
    }  # fmt: skip
    layout = {
        "height": 150 + 24 * len(encoders), "margin": MARGINS,
        "xaxis": {"side": "top", "automargin": True, "tickangle": -45, "type": "category", "showgrid": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False},
    }  # fmt: skip
    return {"data": [measured, states], "layout": layout}


def _mark(row: Row) -> str:
    return STATE_MARKS.get(row.state, "n/a")


def _by_best(best: dict[tuple[str, str], Row], axis: int) -> list[str]:
    """Names on one axis, those that reach the highest score first."""
    top: dict[str, float] = {}
    for pair, row in best.items():
        top[pair[axis]] = max(top.get(pair[axis], -1.0), -1.0 if row.score is None else row.score)
    return sorted(top, key=lambda name: (-top[name], name))


def _hover(row: Row | None) -> str:
    """What the tooltip says of a row."""
    if row is None:
        return ""
    lines = [f"<b>{row_label(row)}</b>", label(row.config)]
    if row.standing is not None:
        s = row.standing
        lines += [f"mIoU {number(row.score)} ({s.ci_low:.4f}–{s.ci_high:.4f}), {len(row.done)} seeds"]
        lines += [f"tier {s.tier}, rank {s.rank} ({s.rank_low}–{s.rank_high}), group {row.group}"]
    else:
        lines += [label(row.state), *(label(flag, longest=90) for flag in row.flags[:2])]
    lines += [f"{millions(row.parameters)}, {number(row.gflops, '.1f')} GFLOPs, {duration(row.seconds)}"]
    return "<br>".join(lines)


def cost(group: Group, axis: str) -> Figure:
    """Score against one of COSTS, with the Pareto front: what nothing cheaper beats."""
    points = [(x, row) for row in group.rows if (x := _cost(row, axis)) is not None]
    points.sort(key=lambda point: (point[0], -(point[1].score or 0)))
    front: list[tuple[float, Row]] = []
    for x, row in points:
        if not front or (row.score or 0) > (front[-1][1].score or 0):
            front.append((x, row))
    traces = [
        _points([p for p in points if p[1].standing and (p[1].standing.tier == 1) is first], name=name, size=size)
        for first, name, size in ((False, "other tiers", 7), (True, "tier 1", 11))
    ]
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "x": [x for x, _ in front], "hoverinfo": "skip",
        "y": [row.score for _, row in front], "line": {"shape": "hv", "width": 2, "dash": "dot"},
    }  # fmt: skip
    layout = {
        "height": 460, "margin": MARGINS, "hovermode": "closest", "legend": {"orientation": "h", "y": 1.08},
        "xaxis": {"title": {"text": COSTS[axis]}, "automargin": True, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "mIoU"}, "automargin": True},
    }  # fmt: skip
    return {"data": [line, *traces], "layout": layout}


def _cost(row: Row, axis: str) -> float | None:
    value = {"parameters": row.parameters, "gflops": row.gflops, "minutes": row.seconds}[axis]
    scale = {"parameters": 1e6, "gflops": 1.0, "minutes": 60.0}[axis]
    return None if value is None else value / scale


def _points(points: Sequence[tuple[float, Row]], *, name: str, size: int) -> Figure:
    half = [row.standing.ci_high - (row.score or 0) if row.standing else 0 for _, row in points]
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": [x for x, _ in points],
        "y": [row.score for _, row in points], "error_y": {"array": half, "thickness": 1, "width": 0},
        "hovertext": [_hover(row) for _, row in points], "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"size": size},
    }  # fmt: skip


def _colorbar(title: str) -> Figure:
    return {"title": {"text": title}, "thickness": 12, "len": 1, "lenmode": "fraction"}


def classes(group: Group, names: Sequence[str]) -> Figure:
    """IoU of each class for the first rows of a group."""
    rows = group.rows[:NUM_CLASS_ROWS]
    scores = [[row.iou.get(name) for name in names] for row in rows]
    trace = {
        "type": "heatmap", "z": [_rounded(line) for line in scores], "x": [label(name) for name in names],
        "y": labels(rows), "colorscale": "Viridis", "zmin": 0, "zmax": 1, "xgap": 1, "ygap": 1,
        "texttemplate": "%{z:.2f}" if len(rows) * len(names) <= MOST_LABELLED_CELLS else "",
        "hovertemplate": "%{y}<br>%{x}: %{z:.4f}<extra></extra>", "colorbar": _colorbar("IoU"),
    }  # fmt: skip
    layout = {
        "height": 150 + 24 * len(rows), "margin": MARGINS,
        "xaxis": {"side": "top", "automargin": True, "tickangle": -45, "type": "category", "showgrid": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def confusion(counts: Counts, names: Sequence[str]) -> Figure:
    """Confusion (C, C) pixels as shares of each true class; counts on hovering."""
    totals = counts.sum(axis=1)
    shares = [[float(n) / float(t) if t else None for n in line] for line, t in zip(counts, totals, strict=True)]
    trace = {
        "type": "heatmap", "z": [_rounded(line) for line in shares], "x": [label(n) for n in names],
        "y": [label(n) for n in names], "customdata": counts.tolist(), "zmin": 0, "zmax": 1, "colorscale": "Viridis",
        "texttemplate": "%{z:.0%}" if len(names) <= 20 else "", "xgap": 1, "ygap": 1,
        "hovertemplate": "truth %{y}<br>prediction %{x}<br>%{z:.1%} (%{customdata:,} px)<extra></extra>",
        "colorbar": {**_colorbar("share"), "tickformat": ".0%"},
    }  # fmt: skip
    axis = {"automargin": True, "type": "category", "showgrid": False}
    layout = {
        "height": 200 + 32 * len(names), "margin": MARGINS,
        "xaxis": {**axis, "title": {"text": "prediction"}, "tickangle": -45},
        "yaxis": {**axis, "title": {"text": "truth"}, "autorange": "reversed"},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def best_run(row: Row) -> Run:
    """The done run with the highest score, whose pictures are shown."""
    return max(row.done, key=lambda run: run.best.miou if run.best is not None else -1.0)
