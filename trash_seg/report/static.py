"""Learning curves and heat map as PNG and SVG, for papers and chats. Plotly would need a browser for that."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trash_seg.report import figures
from trash_seg.report.board import Board
from trash_seg.rundir import write_atomically

NUM_CURVES = 8
MOST_ROWS, MOST_COLUMNS = 60, 20
STYLE: Any = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "trash_seg", "font.size": 9}
"""Names are text, not formulas; and the same report gives the same file."""


def write_figures(board: Board, folder: Path) -> list[Path]:
    """Writes `learning_curves` and `heat_map`, each as .png and .svg.

    Returns:
        What was written; nothing where no run has finished.
    """
    if not board.groups:
        return []
    drawings: dict[str, tuple[Callable[[Board, Axes], None], tuple[float, float]]] = {
        "learning_curves": (_draw_curves, (8, 5)),
        "heat_map": (_draw_heat_map, _heat_map_size(board)),
    }
    written = []
    for name, (draw, size) in drawings.items():
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box; SVG has the text
            figure = Figure(figsize=size, layout="constrained")
            draw(board, figure.add_subplot())
            for kind in ("png", "svg"):
                metadata = {"Date": None} if kind == "svg" else {}
                path = folder / f"{name}.{kind}"
                write_atomically(path, partial(figure.savefig, format=kind, dpi=150, metadata=metadata))
                written.append(path)
    return written


def _draw_curves(board: Board, axes: Axes) -> None:
    """The first rows of group A by rank, with the range over their seeds."""
    letter = board.groups[0].letter
    series = [c for c in figures.curves(board) if c["group"] == letter]
    for item in sorted(series, key=lambda c: c["rank"])[:NUM_CURVES]:
        band = item["metrics"]["miou"]
        epochs = np.arange(1, len(band["mean"]) + 1)
        (line,) = axes.plot(epochs, _array(band["mean"]), marker=".", label=_plain(board.rows[item["row"]].name))
        if "low" in band:
            axes.fill_between(
                epochs, _array(band["low"]), _array(band["high"]), color=line.get_color(), alpha=0.15, lw=0
            )
    axes.set(xlabel="epoch", ylabel="validation mIoU")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title="band: smallest to largest of the seeds", fontsize=8)


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _heat_map_size(board: Board) -> tuple[float, float]:
    encoders, decoders, _ = figures.grid(board)
    return 3.5 + 0.55 * min(len(decoders), MOST_COLUMNS), 1.8 + 0.24 * min(len(encoders), MOST_ROWS)


def _draw_heat_map(board: Board, axes: Axes) -> None:
    """The best encoders and decoders; empty where there is no score."""
    encoders, decoders, rows = figures.grid(board)
    lines = [[None if row is None else row.score for row in line[:MOST_COLUMNS]] for line in rows[:MOST_ROWS]]
    scores = np.array([_array(line) for line in lines])
    image = axes.imshow(np.ma.masked_invalid(scores), aspect="auto", cmap="viridis")
    axes.set_xticks(range(scores.shape[1]), [_plain(d) for d in decoders[:MOST_COLUMNS]], rotation=45, ha="right")
    axes.set_yticks(range(scores.shape[0]), [_plain(e) for e in encoders[:MOST_ROWS]])
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
    for (y, x), score in np.ndenumerate(scores):
        if np.isfinite(score):
            color = "white" if score < middle else "black"
            axes.text(x, y, f"{score:.3f}", ha="center", va="center", fontsize=7, color=color)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="mIoU")


def _plain(name: str) -> str:
    """Without control characters, which fonts do not have."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= 40 else text[:39] + "…"
