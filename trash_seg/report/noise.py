"""The noise between seeds, as replicated configurations show it. Scores are mIoU fractions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy import stats as distributions

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALPHA = 0.05
"""Error rate of whatever is called different."""
ASSUMED_SIGMA = 0.008
"""From four published runs of one pair, which lie between 0.453 and 0.472."""
MARGIN = 0.004
"""By default: a smaller difference is of no consequence."""
IDENTICAL = MARGIN / 10
"""Seeds that differ by less do not show the noise: most often such a network has learned nothing."""
MOST_UNSTABLE = 0.1
"""Share of the configurations, at least one, that may be left out of the noise of the others."""
RARE = 0.001
"""Error rate of calling the spread of a configuration's seeds unlike the others'."""


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a score between seeds."""

    sigma: float
    """In mIoU."""
    df: float
    """Degrees of freedom it was measured with; infinite where it is assumed."""
    low: float
    """95 % interval; both ends are sigma where it is assumed."""
    high: float
    assumed: bool
    why: str
    """One sentence on where it comes from."""


class Replicates:
    """The scores of all configurations, and sigma as their replicates show it.

    Networks that do not learn agree from seed to seed, and one that now and then collapses spreads over half the scale.
    A sigma over all would be too small beside the ones, too large beside the others. So it is pooled over those that it
    is needed for, and over the rest only while an F test finds no difference.

    Args:
        scores: One array for each of the k configurations, (num_seeds,) each.
        sigma: Given by the user; replaces the measurement.
    """

    def __init__(self, scores: Sequence[Floats], *, sigma: float | None = None) -> None:
        self.means = np.array([s.mean() for s in scores])
        self.counts = np.array([len(s) for s in scores])
        self.sigma = sigma
        squares = np.array([float(np.sum((s - s.mean()) ** 2)) for s in scores])
        df = self.counts - 1
        self.identical = (df > 0) & (squares <= df * IDENTICAL**2)
        """(k,) bool."""
        self._squares, self._df = squares, df
        self._shows = (df > 0) & ~self.identical
        if not self._shows.any():  # the noise itself may be as small as that
            self._shows = squares > df * 1e-12
        self.unstable = self._find_unstable()
        """(k,) bool: a few whose seeds spread far more than all others', which are not pooled with these."""

    def _find_unstable(self) -> Mask:
        """None where these are many, or the best is one of them: then the others are the exception."""
        stable = self._shows.copy()
        most = max(1, int(MOST_UNSTABLE * stable.sum()))
        variance = np.where(stable, self._squares / np.maximum(self._df, 1), 0)
        while stable.sum() > 1:
            worst = int(np.argmax(np.where(stable, variance, 0)))
            others = stable.copy()
            others[worst] = False
            df = self._df[others].sum()
            ratio = variance[worst] * df / self._squares[others].sum()
            if special.fdtrc(self._df[worst], df, ratio) > RARE / len(stable):
                break
            stable = others
        unstable = self._shows & ~stable
        if unstable.sum() > most or unstable[self.means == self.means.max(initial=0)].any():
            unstable[:] = False
        return unstable

    def like(self, needed: Mask, pool: Mask | None = None) -> Mask:
        """Those of a pool (k,), by default all, whose replicates give the sigma of the needed ones (k,).

        All of the needed ones stay in it. Others that an F test tells from these leave it: all at once if they spread
        less, or else the noise would be taken for too small; if they spread more, one by one, the worst first.
        """
        pool = self._shows & ~self.unstable if pool is None else pool.copy()
        inside = pool & needed
        df_in, squares_in = self._df[inside].sum(), self._squares[inside].sum()
        while df_in and (outside := pool & ~needed).any():
            df_out = self._df[outside].sum()
            ratio = self._squares[outside].sum() / df_out * df_in / squares_in
            tail = min(special.fdtr(df_out, df_in, ratio), special.fdtrc(df_out, df_in, ratio))
            if 2 * tail > ALPHA / len(pool):
                break
            if ratio < 1:
                return inside
            pool[np.argmax(np.where(outside, self._squares / np.maximum(self._df, 1), 0))] = False
        return pool

    def measured(self, pool: Mask) -> tuple[float, float]:
        """Sigma over a pool (k,), and its degrees of freedom; infinite where it is assumed."""
        if self.sigma is not None or not self._shows.any():
            return self.sigma or ASSUMED_SIGMA, np.inf
        df = float(self._df[pool].sum())
        return float(np.sqrt(self._squares[pool].sum() / df)), df

    def measured_for(self, configurations: Sequence[int], pool: Mask) -> tuple[float, float]:
        """`measured` for a comparison of some configurations: their own spread counts where they are unstable."""
        own = [i for i in configurations if self.unstable[i]]
        if own:
            pool = pool.copy()
            pool[own] = True
        return self.measured(pool)

    def noise(self, pool: Mask) -> Noise:
        """`measured`, with its interval and where it comes from."""
        sigma, df = self.measured(pool)
        if self.sigma is not None:
            return Noise(sigma, df, sigma, sigma, True, "assumed: given by --sigma")
        if np.isinf(df):
            why = "no configuration has two finished seeds"
            if (self.counts > 1).any():
                why = "all replicates are identical, so they do not show the noise"
            return Noise(sigma, df, sigma, sigma, True, f"assumed: {why}")
        low, high = (sigma * float(np.sqrt(df / distributions.chi2.ppf(p, df))) for p in (0.975, 0.025))
        num, num_replicated = int(pool.sum()), int((self.counts > 1).sum())
        of = "" if num == num_replicated else f" of the {num_replicated}"
        configurations = "configuration" if num_replicated == 1 else "configurations"
        why = f"measured: pooled over {num}{of} {configurations} with two or more seeds"
        return Noise(sigma, df, low, high, False, why + (", as the others spread otherwise" if of else ""))


def spreads_more(scores: Floats, noise: Noise) -> bool:
    """Whether the seeds (n,) of a configuration lie further apart than the noise would have them but rarely."""
    df = len(scores) - 1
    if df == 0:
        return False
    ratio = float(np.var(scores, ddof=1)) / noise.sigma**2
    return bool(special.fdtrc(df, min(noise.df, 1e9), ratio) < RARE)
