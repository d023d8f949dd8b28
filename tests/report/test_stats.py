"""The statistics against statsmodels, scipy's own multivariate t, and by hand."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import multivariate_t, norm
from statsmodels.stats.multitest import multipletests

from trash_seg.report import stats

KNOWN = stats.Noise(0.008, np.inf, 0.008, 0.008, True, "")


def replicates(counts: list[int], *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.4 + 0.01 * i, 0.008, n) for i, n in enumerate(counts)]


def fit(scores: list[np.ndarray]):
    """One mean for each configuration, by least squares."""
    groups = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    return sm.OLS(np.concatenate(scores), np.eye(len(scores))[groups]).fit()


def summary(scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, stats.Noise]:
    means, counts = np.array([s.mean() for s in scores]), np.array([len(s) for s in scores])
    return means, counts, stats.pooled_noise(scores)


def test_noise_and_intervals_equal_those_of_statsmodels() -> None:
    scores = replicates([3, 1, 5, 2])
    model = fit(scores)
    means, counts, noise = summary(scores)
    assert noise.sigma == pytest.approx(np.sqrt(model.mse_resid))
    assert noise.df == model.df_resid
    assert not noise.assumed
    low, high = stats.mean_intervals(means, counts, noise)
    assert np.allclose(np.stack([low, high], axis=1), model.conf_int(0.05))


def test_probability_of_outperforming_is_the_one_sided_t_test_of_statsmodels() -> None:
    scores = replicates([3, 2, 4])
    test = fit(scores).t_test([1, 0, -1])
    p = stats.probability_better(*summary(scores))
    assert p[0, 2] == pytest.approx(norm.cdf(norm.ppf(float(test.pvalue) / 2)))  # the first is lower
    assert np.allclose(p + p.T, 1)


def test_the_interval_of_sigma_covers_it() -> None:
    covered = 0
    for seed in range(400):
        noise = stats.pooled_noise(replicates([3] * 6, seed=seed))
        covered += noise.low <= 0.008 <= noise.high
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400) <= covered / 400


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([[0.4], [0.5]], "no configuration has two"),
        ([[0.4, 0.4], [0.5, 0.5]], "identical"),
    ],
)
def test_without_measured_noise_it_is_assumed_and_said(scores: list[list[float]], why: str) -> None:
    noise = stats.pooled_noise([np.array(s) for s in scores])
    assert noise.assumed
    assert noise.sigma == stats.ASSUMED_SIGMA
    assert why in noise.why


def test_a_given_sigma_is_used_as_an_assumption() -> None:
    noise = stats.pooled_noise(replicates([3, 3]), sigma=0.02)
    assert (noise.sigma, noise.df, noise.assumed) == (0.02, np.inf, True)


@pytest.mark.parametrize("df", [1.0, 7.0, 40.0])
@pytest.mark.parametrize(("count", "others"), [(3, [3, 3, 3]), (8, [2, 3, 2, 5]), (1, [6, 2])])
def test_dunnett_integral_equals_the_multivariate_t(df: float, count: int, others: list[int]) -> None:
    load = np.array([np.sqrt(n / (n + count)) for n in others])
    correlation = np.outer(load, load)
    np.fill_diagonal(correlation, 1)
    for t in (0.5, 2.0, 3.5):
        inside = multivariate_t(shape=correlation, df=df, seed=0).cdf(np.full(len(others), t), maxpts=200_000)
        assert stats.dunnett_p(t, count=count, others=np.array(others), df=df) == pytest.approx(1 - inside, abs=1e-3)


def test_dunnett_integral_of_two_is_students_t() -> None:
    from scipy.stats import t as student

    for df in (2.0, 30.0):
        assert stats.dunnett_p(2.1, count=3, others=np.array([5]), df=df) == pytest.approx(
            student.sf(2.1, df), rel=1e-4
        )


@pytest.mark.parametrize("counts", [[3] * 6, [3, 2, 3, 1, 4, 3]])
def test_the_step_down_is_holms(counts: list[int]) -> None:
    for seed in range(6):
        means, n, noise = summary(replicates(counts, seed=seed))
        t = [max((means - mean) / (noise.sigma * np.sqrt(1 / n[i] + 1 / n))) for i, mean in enumerate(means)]
        p = [stats.best_p(i, t[i], n, noise) for i in range(6)]
        holm = multipletests(p, alpha=stats.ALPHA, method="holm")[0]
        worse = stats.separated(means, n, noise, margin=0)
        assert not np.any(worse & ~holm)
        assert len(set(counts)) > 1 or np.array_equal(worse, holm)


def test_a_difference_within_the_margin_does_not_count() -> None:
    means, counts = np.array([0.40, 0.41, 0.46]), np.array([400, 400, 400])
    assert stats.tiers(means, counts, KNOWN, margin=0.004).tolist() == [3, 2, 1]
    assert stats.tiers(means, counts, KNOWN, margin=0.02).tolist() == [2, 2, 1]


def test_a_single_run_each_is_judged_by_the_assumed_noise() -> None:
    close, far = ([np.array([a]), np.array([b])] for a, b in ((0.40, 0.41), (0.40, 0.45)))
    assert stats.tiers(*summary(close), margin=0.004).tolist() == [1, 1]
    assert stats.tiers(*summary(far), margin=0.004).tolist() == [2, 1]


def test_one_configuration_is_alone_in_tier_1() -> None:
    scores = replicates([2])
    assert stats.tiers(*summary(scores), margin=0.004).tolist() == [1]
    ranks = stats.bootstrap_ranks(*summary(scores))
    assert (ranks.low.tolist(), ranks.high.tolist(), ranks.excess) == ([1], [1], 0.0)


def test_rank_intervals_widen_with_the_noise() -> None:
    means, counts = np.array([0.5, 0.45, 0.449, 0.30]), np.full(4, 3)
    ranks = stats.bootstrap_ranks(means, counts, KNOWN)
    assert list(zip(ranks.low, ranks.high, strict=True)) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert ranks.p_first.tolist() == [1, 0, 0, 0]


def test_the_winners_curse_of_equal_configurations_is_the_expected_maximum() -> None:
    rng = np.random.default_rng(0)
    excess = [
        stats.bootstrap_ranks(rng.normal(0.4, 0.008 / np.sqrt(3), 40), np.full(40, 3), KNOWN).excess for _ in range(5)
    ]
    expected = 0.008 / np.sqrt(3) * 2.1608  # of 40 standard normal values
    assert np.mean(excess) == pytest.approx(expected, rel=0.2)


def test_the_seeds_asked_for_separate_in_80_percent() -> None:
    difference = 0.012
    seeds = int(np.ceil(stats.seeds_needed(difference, KNOWN, num_configurations=2)))
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(600):
        means = np.array([0.4, 0.4 + difference]) + rng.normal(0, 0.008 / np.sqrt(seeds), 2)
        found += bool(stats.separated(means, np.full(2, seeds), KNOWN, margin=0)[0])
    assert 0.78 <= found / 600 <= 0.88  # rounding up to whole seeds gives a little more than asked for
