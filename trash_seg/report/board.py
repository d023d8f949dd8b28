"""The leaderboard: one row for each configuration, its seeds as replicates, ranked among what is comparable."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trash_seg.report import stats
from trash_seg.report.collect import Run, Score
from trash_seg.report.noise import Floats, Noise

UNRANKED_ORDER = (
    "running", "interrupted", "pruned", "diverged", "failed", "unreadable", "missing", "unsupported", "left out",
)  # fmt: skip
RANK_BY = ("best", "last")


@dataclass(frozen=True)
class Standing:
    """Where a configuration stands in its group; scores as mIoU fractions."""

    tier: int
    rank: int
    rank_low: int
    rank_high: int
    sd: float | None
    """Over its own seeds; None with one seed."""
    ci_low: float
    """95 % interval of the mean over seeds, with the sigma of its tier."""
    ci_high: float
    p_first: float


@dataclass
class Row:
    """One configuration."""

    encoder: str
    decoder: str
    weights: str | None
    config: str
    runs: list[Run]
    done: list[Run]
    rank_by: str
    group: str = ""
    """Letter of its comparability group; empty where it is not ranked."""
    standing: Standing | None = None
    flags: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Encoder and decoder; not unique."""
        return f"{self.encoder} {self.decoder}".strip()

    @property
    def pretraining(self) -> str:
        """The set of weights, `none` for training from scratch, empty where it is not known."""
        known = any(run.config for run in self.runs)
        return self.weights or ("none" if known else "")

    @property
    def state(self) -> str:
        """`done` if any seed is; else the most advanced state among its runs."""
        states = [run.state for run in self.runs]
        known = [state for state in ("done", *UNRANKED_ORDER) if state in states]
        return known[0] if known else states[0]

    def scores(self, which: str | None = None) -> Floats:
        """(num_seeds,) mIoU of the done runs at their best or last epoch; by default the one ranked by."""
        return np.array([s.miou for s in self._scores(which or self.rank_by)])

    def _scores(self, which: str) -> list[Score]:
        return [s for run in self.done if (s := run.best if which == "best" else run.last) is not None]

    def mean(self, metric: str, which: str = "best") -> float | None:
        """Mean over seeds of a metric of `Score`."""
        return _mean(getattr(score, metric) for score in self._scores(which))

    @property
    def score(self) -> float | None:
        """What it is ranked by."""
        return self.mean("miou", self.rank_by)

    @property
    def iou(self) -> dict[str, float | None]:
        """Class → mean over seeds of the IoU at the best epoch."""
        scores = self._scores("best")
        return {name: _mean(s.iou.get(name) for s in scores) for name in (scores[0].iou if scores else ())}

    @property
    def parameters(self) -> int | None:
        """Of the model."""
        return next((run.parameters for run in self.runs if run.parameters is not None), None)

    @property
    def gflops(self) -> float | None:
        """For one image of the training size."""
        return next((run.gflops for run in self.runs if run.gflops is not None), None)

    @property
    def seconds(self) -> float | None:
        """Mean time of a done run."""
        return _mean(run.seconds for run in self.done)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass
class Group:
    """Rows that may be ranked together."""

    letter: str
    setting: dict[str, str]
    """What makes them comparable: label → value in words."""
    rows: list[Row]
    """By rank."""
    noise: Noise
    """Of tier 1."""
    ranks: stats.Ranks
    believed: stats.Posterior

    @property
    def leader(self) -> Row:
        """The first by mean score."""
        return self.rows[0]


@dataclass
class Board:
    """The whole leaderboard."""

    rows: list[Row]
    """Ranked ones by group, tier and cost, then the others by state."""
    groups: list[Group]
    """The largest first; A, B, …"""
    runs: list[Run]
    classes: list[str]
    rank_by: str
    margin: float

    @property
    def not_ranked_by(self) -> str:
        """The other of `RANK_BY`."""
        return next(which for which in RANK_BY if which != self.rank_by)
