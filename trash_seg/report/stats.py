"""What the scores of replicated configurations say, and what they do not: tiers, ranks, seeds still needed.

The model: score = mean of its configuration + normal noise with one sigma for a tier. Scores are mIoU fractions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy import stats as distributions

from trash_seg.report.noise import ALPHA, Floats, Mask, Noise, Replicates

Ints = NDArray[np.int64]

POWER = 0.8
"""Of the seeds asked for."""
NUM_DRAWS = 2000


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
