"""What the scores of replicated configurations say, and what they do not: noise, tiers, ranks, seeds still needed.

The model: score = mean of its configuration + normal noise with one sigma for all. Scores are mIoU fractions.
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

ALPHA = 0.05
POWER = 0.8
ASSUMED_SIGMA = 0.008
"""From four published runs of one pair, which lie between 0.453 and 0.472."""
MARGIN = 0.004
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


def pooled_noise(scores: Sequence[Floats], *, sigma: float | None = None) -> Noise:
    """Sigma from the replicates, pooled over configurations.

    Args:
        scores: One array for each configuration, (num_seeds,) each.
        sigma: Given by the user; replaces the measurement.
    """
    if sigma is not None:
        return Noise(sigma, np.inf, sigma, sigma, True, "assumed: given by --sigma")
    df = sum(len(s) - 1 for s in scores if len(s) > 1)
    if df == 0:
        why = "assumed: no configuration has two finished seeds"
        return Noise(ASSUMED_SIGMA, np.inf, ASSUMED_SIGMA, ASSUMED_SIGMA, True, why)
    squares = sum(float(np.sum((s - s.mean()) ** 2)) for s in scores if len(s) > 1)
    if squares <= df * 1e-12:
        why = "assumed: all replicates are identical, so they do not show the noise"
        return Noise(ASSUMED_SIGMA, np.inf, ASSUMED_SIGMA, ASSUMED_SIGMA, True, why)
    low, high = (float(np.sqrt(squares / distributions.chi2.ppf(p, df))) for p in (0.975, 0.025))
    num_replicated = sum(len(s) > 1 for s in scores)
    configurations = "configuration" if num_replicated == 1 else "configurations"
    why = f"measured: pooled over {num_replicated} {configurations} with two or more seeds"
    return Noise(float(np.sqrt(squares / df)), float(df), low, high, False, why)


def mean_intervals(means: Floats, counts: Ints, noise: Noise) -> tuple[Floats, Floats]:
    """95 % intervals of the configurations' means (k,) over seeds, each by itself, with the pooled sigma."""
    half = distributions.t.ppf(0.975, noise.df) * noise.sigma / np.sqrt(counts)
    return means - half, means + half


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


def best_p(i: int, t: float, counts: Ints, noise: Noise) -> float:
    """P-value of "configuration i is as good as the best" (Hsu's comparison with the best).

    J. C. Hsu, Multiple Comparisons (1996), chapter 4.

    Args:
        i: Index into counts.
        t: See `dunnett_p`.
        counts: (k,) number of seeds.
        noise: Between seeds.
    """
    bound = (len(counts) - 1) * float(distributions.t.sf(t, noise.df))  # Bonferroni's, which costs nothing
    if bound < ALPHA / len(counts):
        return bound
    return dunnett_p(t, count=int(counts[i]), others=np.delete(counts, i), df=noise.df)


def separated(means: Floats, counts: Ints, noise: Noise, *, margin: float) -> NDArray[np.bool_]:
    """Which configurations (k,) are worse than the best: `best_p` stepped down, family-wise error ALPHA.

    Dunnett against the observed leader would treat the leader as chosen beforehand: with all configurations equal it
    calls some of them worse far too often. Hsu's p-values are right for a single best; the step-down of Holm (Scand. J.
    Statist. 6 (1979) 65) makes them right for any number that share the first place: P(any of those is called worse) <=
    ALPHA, for any counts. It goes by t, which is the order of the p-values where the counts are equal, and else stops
    no later than Holm.
    """
    k = len(means)
    worse = np.zeros(k, dtype=bool)
    sizes = np.unique(counts)
    best = np.array([means[counts == size].max() for size in sizes])  # the only ones that can give the largest t
    t = ((best - means[:, None]) / (noise.sigma * np.sqrt(1 / counts[:, None] + 1 / sizes))).max(axis=1)
    for step, i in enumerate(np.argsort(-t, kind="stable")[:-1]):
        if best_p(i, t[i], counts, noise) > ALPHA / (k - step):
            break
        worse[i] = means.max() - means[i] > margin
    return worse


def tiers(means: Floats, counts: Ints, noise: Noise, *, margin: float) -> Ints:
    """Tier of each configuration (k,), from 1: those not separated from the best, then the same among the rest."""
    tier = np.zeros(len(means), dtype=np.int64)
    rest = np.arange(len(means))
    level = 1
    while len(rest):
        worse = separated(means[rest], counts[rest], noise, margin=margin)
        tier[rest[~worse]] = level
        rest = rest[worse]
        level += 1
    return tier


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


def bootstrap_ranks(means: Floats, counts: Ints, noise: Noise, *, seed: int = 0) -> Ranks:
    """Parametric bootstrap of the ranks (pooled sigma, its own uncertainty included), and the winner's curse.

    The curse is simulated with true means drawn from the normal posterior of an empirical-Bayes fit, as the observed
    means are spread more widely than the true ones.
    """
    k = len(means)
    rng = np.random.default_rng(seed)
    errors = noise.sigma / np.sqrt(counts)
    ranks = np.empty((NUM_DRAWS, k), dtype=np.int32)
    scale = np.ones(NUM_DRAWS) if np.isinf(noise.df) else np.sqrt(noise.df / rng.chisquare(noise.df, NUM_DRAWS))
    spread = max(0.0, float(np.var(means, ddof=1)) - float(np.mean(errors**2))) if k > 1 else 0.0
    keep = spread / (spread + errors**2)
    centre = float(np.mean(means)) + keep * (means - np.mean(means))
    excess = np.empty(NUM_DRAWS)
    for draw in range(NUM_DRAWS):
        repeated = means + scale[draw] * errors * rng.standard_normal(k)
        ranks[draw, np.argsort(-repeated)] = np.arange(1, k + 1)
        true = centre + np.sqrt(keep) * errors * rng.standard_normal(k)
        observed = true + errors * rng.standard_normal(k)
        best = int(np.argmax(observed))
        excess[draw] = observed[best] - true[best]
    low, high = np.percentile(ranks, [2.5, 97.5], axis=0, method="closest_observation").astype(np.int64)
    return Ranks(low, high, (ranks == 1).mean(axis=0), max(0.0, float(excess.mean())) if k > 1 else 0.0)


def probability_better(means: Floats, counts: Ints, noise: Noise) -> Floats:
    """(k, k) chance that the row's true mean is above the column's: Student's t, flat prior; 0.5 on the diagonal."""
    scale = noise.sigma * np.sqrt(1 / counts[:, None] + 1 / counts)
    return np.asarray(distributions.t.cdf((means[:, None] - means) / scale, noise.df))


def seeds_needed(difference: float, noise: Noise, *, num_configurations: int) -> float:
    """Seeds that each of two configurations needs until `separated` tells them apart with probability POWER.

    n = 2 ((c + z) sigma / difference)², c the last step's constant of `separated` with sigma known.
    """
    others = np.ones(num_configurations - 1, dtype=np.int64)
    level = ALPHA / 2
    constant = optimize.brentq(lambda t: dunnett_p(t, count=1, others=others, df=np.inf) - level, 0, 10)
    z = float(distributions.norm.ppf(POWER))
    return float(2 * ((constant + z) * noise.sigma / difference) ** 2)
