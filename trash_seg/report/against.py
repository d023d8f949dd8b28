"""Two sweeps, row by row."""

from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from trash_seg.report.board import Board, Row
from trash_seg.report.noise import ALPHA, Floats, Noise, Replicates
from trash_seg.report.rank import comparability

SCORED_ON = {"classes", "class map", "data", "data settings"}
"""Where these differ, the scores mean different things."""


@dataclass(frozen=True)
class Difference:
    """One configuration in both sweeps."""

    this: Row
    other: Row
    difference: float
    """This mean minus the other's, mIoU."""
    low: float
    """95 % interval by itself."""
    high: float
    p: float
    """Two-sided, adjusted by Holm for all rows of the comparison."""
    verdict: str
    """`higher`, `lower`, `same` (within the margin or the noise) or `not comparable` (other data or classes)."""
    differs: list[str]
    """What else than the configuration's own settings differs, e.g. software."""


@dataclass(frozen=True)
class Comparison:
    """This sweep against another."""

    rows: list[Difference]
    noise: Noise
    """Pooled over both sweeps; a row whose seeds spread otherwise is judged by its own."""
    only_this: list[Row]
    only_other: list[Row]


def compare(this: Board, other: Board, *, sigma: float | None) -> Comparison:
    """Matches rows with the same settings, else the only ones with the same encoder, decoder and weights."""
    mine, theirs = ([row for row in board.rows if row.done and row.score is not None] for board in (this, other))
    pairs = _matched(mine, theirs)
    replicates = Replicates([row.scores() for pair in pairs for row in pair], sigma=sigma)
    index = np.arange(len(pairs)).repeat(2)
    measured = [replicates.measured_for([2 * i, 2 * i + 1], replicates.like(index == i)) for i in range(len(pairs))]
    sigmas, df = np.array(measured).reshape(-1, 2).T
    errors = sigmas * np.sqrt([1 / len(a.done) + 1 / len(b.done) for a, b in pairs])
    differences = np.array([a.scores().mean() - b.scores().mean() for a, b in pairs])
    adjusted = _holm(2 * distributions.t.sf(np.abs(differences) / errors, df))
    half = distributions.t.ppf(0.975, df) * errors
    rows = []
    for (a, b), difference, width, p in zip(pairs, differences, half, adjusted, strict=True):
        ours, others = comparability(a.done[0]), comparability(b.done[0])
        differs = [name for name, value in ours.items() if value != others[name]]
        verdict = _verdict(differs, float(difference), float(p), margin=this.margin)
        low, high = float(difference - width), float(difference + width)
        rows.append(Difference(a, b, float(difference), low, high, float(p), verdict, differs))
    matched = {id(row) for pair in pairs for row in pair}
    left = [[row for row in part if id(row) not in matched] for part in (mine, theirs)]
    return Comparison(rows, replicates.noise(replicates.like(np.ones(len(index), dtype=bool))), left[0], left[1])


def _matched(mine: list[Row], theirs: list[Row]) -> list[tuple[Row, Row]]:
    by_config = {row.config: row for row in theirs}
    pairs = [(row, by_config[row.config]) for row in mine if row.config in by_config]
    used = {id(row) for pair in pairs for row in pair}
    for row in mine:
        named = [[r for r in part if _pair(r) == _pair(row) and id(r) not in used] for part in (mine, theirs)]
        if id(row) not in used and len(named[0]) == len(named[1]) == 1:
            pairs.append((row, named[1][0]))
            used |= {id(row), id(named[1][0])}
    return pairs


def _pair(row: Row) -> tuple[str, str, str]:
    return row.encoder, row.decoder, row.pretraining


def _holm(p: Floats) -> Floats:
    """Adjusted p-values (k,)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def _verdict(differs: list[str], difference: float, p: float, *, margin: float) -> str:
    if SCORED_ON & set(differs):
        return "not comparable"
    if p > ALPHA or abs(difference) <= margin:
        return "same"
    return "higher" if difference > 0 else "lower"
