"""What the scores of replicated configurations say, and what they do not: noise, tiers, ranks, seeds still needed.

The model: score = mean of its configuration + normal noise with one sigma for a tier. Scores are mIoU fractions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy import stats as distributions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

ALPHA = 0.05
POWER = 0.8
ASSUMED_SIGMA = 0.008
"""From four published runs of one pair, which lie between 0.453 and 0.472."""
MARGIN = 0.004
IDENTICAL = MARGIN / 10
"""Seeds that differ by less do not show the noise: most often such a network has learned nothing."""
MOST_UNSTABLE = 0.1
"""Share of the configurations, at least one, that may be left out of the noise of the others."""
RARE = 0.001
"""Error rate of calling the spread of a configuration's seeds unlike the others'."""
NUM_DRAWS = 2000


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


@lru_cache(maxsize=64)
def _sigma_nodes(df: float) -> tuple[Floats, Floats]:
    """Nodes and weights to average over measured sigma / true sigma, which is chi(df) / sqrt(df)."""
    if np.isinf(df):
        return np.ones(1), np.ones(1)
    low, high = distributions.chi.ppf([1e-12, 1 - 1e-12], df) / np.sqrt(df)
    x, w = np.polynomial.legendre.leggauss(40)
    nodes = (x + 1) / 2 * (high - low) + low
    weights = w * distributions.chi.pdf(nodes * np.sqrt(df), df)
    return nodes, weights / weights.sum()


_Z = np.linspace(-8, 8, 97)
_Z_WEIGHTS = distributions.norm.pdf(_Z) / distributions.norm.pdf(_Z).sum()


def dunnett_p(t: float, *, count: int, others: Ints, df: float) -> float:
    """Chance that the largest one-sided comparison of one configuration with all others reaches t by noise alone.

    Dunnett's integral for unequal counts: given the noise z of the configuration itself the comparisons are
    independent. C. W. Dunnett, JASA 50 (1955) 1096.

    Args:
        t: max over j of (mean_j - mean_i) / (s sqrt(1/n_i + 1/n_j)).
        count: n_i.
        others: (k - 1,) n_j.
        df: Degrees of freedom of s.
    """
    nodes, weights = _sigma_nodes(df)
    sizes, repeats = np.unique(others, return_counts=True)
    log_none = np.zeros((len(nodes), len(_Z)))
    for size, repeat in zip(sizes, repeats, strict=True):
        scale = np.sqrt(size)
        bound = scale * (t * nodes[:, None] * np.sqrt(1 / count + 1 / size) - _Z / np.sqrt(count))
        log_none += repeat * special.log_ndtr(bound)
    return float(np.clip(-weights @ np.expm1(log_none) @ _Z_WEIGHTS, 0, 1))


def best_p(i: int, t: float, counts: Ints, df: float) -> float:
    """P-value of "configuration i is as good as the best" (Hsu's comparison with the best).

    J. C. Hsu, Multiple Comparisons (1996), chapter 4.

    Args:
        i: Index into counts.
        t: See `dunnett_p`.
        counts: (k,) number of seeds.
        df: Degrees of freedom of the noise.
    """
    bound = (len(counts) - 1) * float(special.stdtr(df, -t))  # Bonferroni's, which costs nothing
    if bound < ALPHA / len(counts):
        return bound
    return dunnett_p(t, count=int(counts[i]), others=np.delete(counts, i), df=df)


def separated(replicates: Replicates, among: Ints, *, margin: float) -> tuple[Mask, Mask]:
    """Which of some configurations are worse than the best of these: `best_p` stepped down, family-wise error ALPHA.

    Dunnett against the observed leader would treat the leader as chosen beforehand: with all configurations equal it
    calls some of them worse far too often. Hsu's p-values are right for a single best; the step-down of Holm (Scand. J.
    Statist. 6 (1979) 65) makes them right for any number that share the first place: P(any of those is called worse) ≤
    ALPHA, for any counts. It goes by t, which is the order of the p-values where the counts are equal, and else stops
    no later than Holm. Sigma is at each step that of the configurations still in the running; for an unstable one its
    own spread is in it.

    Args:
        replicates: Of k configurations.
        among: (m,) indices of the ones to compare.
        margin: A smaller difference does not count.

    Returns:
        (m,) bool; and the pool (k,) of the last sigma.
    """
    m = len(among)
    means, counts = replicates.means[among], replicates.counts[among]
    worse = np.zeros(m, dtype=bool)
    sizes = np.unique(counts)
    best = np.array([means[counts == size].max() for size in sizes])  # the only ones that can give the largest t
    distance = ((best - means[:, None]) / np.sqrt(1 / counts[:, None] + 1 / sizes)).max(axis=1)
    leader = int(among[np.argmax(means)])
    running = np.zeros(len(replicates.means), dtype=bool)
    running[among] = True
    pool = replicates.like(running)
    sigmas = np.array([replicates.measured_for([leader, i], pool)[0] for i in among])
    for step, i in enumerate(np.argsort(-distance / sigmas, kind="stable")[:-1]):
        sigma, df = replicates.measured_for([leader, among[i]], pool)
        if best_p(i, distance[i] / sigma, counts, df) > ALPHA / (m - step):
            break
        worse[i] = means.max() - means[i] > margin
        running[among[i]] = False
        pool = replicates.like(running, pool)
    return worse, pool


@dataclass(frozen=True)
class Tier:
    """Configurations that are not told apart."""

    members: Ints
    """(m,) indices."""
    noise: Noise
    error: Floats
    """(m,) standard error of the observed means."""
    df: Floats
    """(m,) degrees of freedom of these."""

    def intervals(self, means: Floats) -> tuple[Floats, Floats]:
        """95 % intervals of the members' true means over seeds, each by itself, from all observed means (k,)."""
        half = distributions.t.ppf(0.975, self.df) * self.error
        return means[self.members] - half, means[self.members] + half


def tiers(replicates: Replicates, *, margin: float) -> list[Tier]:
    """Those of all configurations not separated from the best, then the same among the rest."""
    found = []
    rest = np.arange(len(replicates.means))
    while len(rest):
        worse, pool = separated(replicates, rest, margin=margin)
        members = rest[~worse]
        sigma, df = np.array([replicates.measured_for([i], pool) for i in members]).T
        found.append(Tier(members, replicates.noise(pool), sigma / np.sqrt(replicates.counts[members]), df))
        rest = rest[worse]
    return found


@dataclass(frozen=True)
class Posterior:
    """What is believed of the true means of k configurations: Student's t, independent of each other."""

    centre: Floats
    error: Floats
    """(k,) scale."""
    seed_error: Floats
    """(k,) standard error of the observed means."""
    df: Floats
    """(k,) degrees of freedom of the noise."""


def posterior(replicates: Replicates, found: Sequence[Tier]) -> Posterior:
    """True means from observed ones: within a tier those lie closer together than these, the more so the more noise.

    The observed means are shrunk towards the mean of their tier as by James and Stein (Efron and Morris, JASA 70 (1975)
    311), which leaves three and fewer as they are.
    """
    k = len(replicates.means)
    centre, error, seed_error, df = replicates.means.copy(), np.empty(k), np.empty(k), np.empty(k)
    for tier in found:
        members = tier.members
        seed_error[members] = error[members] = tier.error
        df[members] = tier.df
        if len(members) > 3:
            means, noise = replicates.means[members], seed_error[members] ** 2
            spread = np.sum((means - means.mean()) ** 2) / (len(members) - 3) - noise.mean()
            keep = max(spread, 0.0) / (max(spread, 0.0) + noise)
            centre[members] = means.mean() + keep * (means - means.mean())
            error[members] *= np.sqrt(keep)
    return Posterior(centre, error, seed_error, df)


@dataclass(frozen=True)
class Ranks:
    """What a repetition of all runs would give. k configurations."""

    low: Ints
    """(k,) 95 % interval of the rank, from 1."""
    high: Ints
    p_first: Floats
    """(k,) share of repetitions in which it comes first."""
    excess: float
    """Winner's curse: how far the best score observed is expected to lie above that configuration's true mean."""


def repeat_ranks(believed: Posterior, *, seed: int = 0) -> Ranks:
    """Ranks in simulated repetitions: true means from the posterior, new seeds on top."""
    k = len(believed.centre)
    rng = np.random.default_rng(seed)
    draws = (NUM_DRAWS, k)
    scale = np.ones(draws)
    for df in np.unique(believed.df[np.isfinite(believed.df)]):  # sigma is uncertain for all that share it at once
        scale[:, believed.df == df] = np.sqrt(df / rng.chisquare(df, (NUM_DRAWS, 1)))
    true = believed.centre + scale * believed.error * rng.standard_normal(draws)
    observed = true + scale * believed.seed_error * rng.standard_normal(draws)
    order = np.argsort(-observed, axis=1)
    ranks = np.empty(draws, dtype=np.int32)
    np.put_along_axis(ranks, order, np.arange(1, k + 1, dtype=np.int32), axis=1)
    low, high = np.percentile(ranks, [2.5, 97.5], axis=0, method="closest_observation").astype(np.int64)
    excess = np.take_along_axis(observed - true, order[:, :1], axis=1)
    return Ranks(low, high, (ranks == 1).mean(axis=0), max(0.0, float(excess.mean())) if k > 1 else 0.0)


def probability_better(believed: Posterior) -> Floats:
    """(k, k) chance that the row's true mean is above the column's; 0.5 on the diagonal and where nothing is known."""
    scale = np.sqrt(believed.error[:, None] ** 2 + believed.error**2)
    difference = believed.centre[:, None] - believed.centre
    t = np.divide(difference, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.asarray(distributions.t.cdf(t, np.minimum(believed.df[:, None], believed.df)))


def seeds_needed(difference: float, noise: Noise, *, num_configurations: int, num_tied: int) -> float:
    """Seeds that each of two configurations needs until `separated` tells them apart with probability POWER.

    n = 2 ((c + z) sigma / difference)², c the constant of `separated`, sigma known, at the first step among `num_tied`
    that are still in the running: the others may stay there.
    """
    others = np.ones(num_configurations - 1, dtype=np.int64)
    level = ALPHA / num_tied
    constant = optimize.brentq(lambda t: dunnett_p(t, count=1, others=others, df=np.inf) - level, 0, 10)
    z = float(distributions.norm.ppf(POWER))
    return float(2 * ((constant + z) * noise.sigma / difference) ** 2)
