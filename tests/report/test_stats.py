"""The statistics against statsmodels, scipy's own multivariate t, and by hand."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import multivariate_t, norm
from statsmodels.stats.multitest import multipletests

from tests.report.test_noise import noise_of, replicates
from trash_seg.report import stats
from trash_seg.report.noise import ALPHA, MARGIN, Noise, Replicates, spreads_more


def fit(scores: list[np.ndarray]):
    """One mean for each configuration, by least squares."""
    groups = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    return sm.OLS(np.concatenate(scores), np.eye(len(scores))[groups]).fit()


def with_means(means: list[float], num: int) -> Replicates:
    """So many seeds each, known noise of 0.008."""
    return Replicates([np.full(num, mean) for mean in means], sigma=0.008)


def tier_numbers(replicates: Replicates, *, margin: float = 0.004) -> list[int]:
    numbers = np.zeros(len(replicates.means), dtype=int)
    for number, tier in enumerate(stats.tiers(replicates, margin=margin), 1):
        numbers[tier.members] = number
    return numbers.tolist()


def believed(replicates: Replicates) -> stats.Posterior:
    return stats.posterior(replicates, stats.tiers(replicates, margin=MARGIN))


def test_noise_and_intervals_equal_those_of_statsmodels() -> None:
    scores = replicates([3, 1, 5, 2])
    model = fit(scores)
    noise = noise_of(scores)
    replicated = Replicates(scores)
    intervals = np.empty((4, 2))
    for tier in stats.tiers(replicated, margin=MARGIN):
        intervals[tier.members] = np.stack(tier.intervals(replicated.means), axis=1)
    assert noise.sigma == pytest.approx(np.sqrt(model.mse_resid))
    assert noise.df == model.df_resid
    assert not noise.assumed
    assert np.allclose(intervals, model.conf_int(0.05))


def test_probability_of_outperforming_of_three_is_the_one_sided_t_test_of_statsmodels() -> None:
    scores = replicates([3, 2, 4])
    test = fit(scores).t_test([1, 0, -1])
    p = stats.probability_better(believed(Replicates(scores)))
    assert p[0, 2] == pytest.approx(norm.cdf(norm.ppf(float(test.pvalue) / 2)))  # the first is lower
    assert np.allclose(p + p.T, 1)


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
        together = Replicates(replicates(counts, seed=seed))
        means, n, noise = together.means, together.counts, together.noise(together.like(np.ones(6, dtype=bool)))
        t = [max((means - mean) / (noise.sigma * np.sqrt(1 / n[i] + 1 / n))) for i, mean in enumerate(means)]
        p = [stats.best_p(i, t[i], n, noise.df) for i in range(6)]
        holm = multipletests(p, alpha=ALPHA, method="holm")[0]
        worse, _ = stats.separated(together, np.arange(6), margin=0)
        assert not np.any(worse & ~holm)
        assert len(set(counts)) > 1 or np.array_equal(worse, holm)


def test_a_difference_within_the_margin_does_not_count() -> None:
    three = with_means([0.40, 0.41, 0.46], 400)
    assert tier_numbers(three, margin=0.004) == [3, 2, 1]
    assert tier_numbers(three, margin=0.02) == [2, 2, 1]


def test_a_single_run_each_is_judged_by_the_assumed_noise() -> None:
    close, far = ([np.array([a]), np.array([b])] for a, b in ((0.40, 0.41), (0.40, 0.45)))
    assert tier_numbers(Replicates(close)) == [1, 1]
    assert tier_numbers(Replicates(far)) == [2, 1]


def test_one_configuration_is_alone_in_tier_1() -> None:
    alone = Replicates(replicates([2]))
    assert tier_numbers(alone) == [1]
    ranks = stats.repeat_ranks(believed(alone))
    assert (ranks.low.tolist(), ranks.high.tolist(), ranks.excess) == ([1], [1], 0.0)


def test_rank_intervals_widen_with_the_noise() -> None:
    ranks = stats.repeat_ranks(believed(with_means([0.5, 0.45, 0.449, 0.30], 3)))
    assert list(zip(ranks.low, ranks.high, strict=True)) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert ranks.p_first.tolist() == [1, 0, 0, 0]


def test_the_winners_curse_of_equal_configurations_is_the_expected_maximum() -> None:
    rng = np.random.default_rng(0)
    sweeps = [with_means(rng.normal(0.4, 0.008 / np.sqrt(3), 40).tolist(), 3) for _ in range(5)]
    excess = [stats.repeat_ranks(believed(sweep)).excess for sweep in sweeps]
    expected = 0.008 / np.sqrt(3) * 2.1608  # of 40 standard normal values
    assert np.mean(excess) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("spread", [0.0, 0.008])
def test_ranks_and_probabilities_hold_in_a_repetition(spread: float) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        truth = 0.4 + spread * rng.standard_normal(40)
        sweep = Replicates([rng.normal(mean, 0.008, 3) for mean in truth])
        belief = believed(sweep)
        ranks, leader = stats.repeat_ranks(belief), int(np.argmax(sweep.means))
        repeated = truth + 0.008 / np.sqrt(3) * rng.standard_normal((50, 40))
        rank = 1 + (repeated > repeated[:, [leader]]).sum(axis=1)
        better = stats.probability_better(belief)[leader]
        found.append(
            [
                ranks.p_first[leader] - (rank == 1).mean(),
                ((ranks.low[leader] <= rank) & (rank <= ranks.high[leader])).mean() - 0.95,
                (better - np.where(truth[leader] == truth, 0.5, truth[leader] > truth)).mean(),
            ]
        )
    comes_first, covered, is_better = np.mean(found, axis=0)
    assert abs(comes_first) < 0.1
    assert covered > -0.02
    assert abs(is_better) < 0.2


@pytest.mark.parametrize("num_worse", [3, 8, 18])
def test_a_configuration_that_collapses_with_a_seed_hides_no_difference_of_the_others(num_worse: int) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(mean, 0.004, 3) for mean in [0.45, *[0.40] * num_worse]]
    scores.append(np.array([0.44, 0.45, 0.20]))
    replicates = Replicates(scores)
    first, *_ = stats.tiers(replicates, margin=0.004)
    assert not set(first.members) & set(range(1, num_worse + 1))
    assert first.noise.sigma == pytest.approx(0.004, rel=0.6)
    assert "the others spread otherwise" in first.noise.why
    assert replicates.unstable.tolist() == [False] * (num_worse + 1) + [True]
    sigma, _ = replicates.measured_for([num_worse + 1], ~replicates.unstable)
    assert sigma > 5 * first.noise.sigma  # by its own spread it may well be as good as the others
    assert [spreads_more(s, first.noise) for s in scores] == [False] * (num_worse + 1) + [True]


@pytest.mark.parametrize("num", [2, 10, 40])
def test_the_seeds_asked_for_separate_in_80_percent(num: int) -> None:
    """The best and the second get them; the others, as good as the second, keep 3."""
    difference = 0.012
    noise = Noise(0.008, np.inf, 0.008, 0.008, True, "")
    seeds = int(np.ceil(stats.seeds_needed(difference, noise, num_configurations=num, num_tied=num)))
    rng = np.random.default_rng(0)
    counts = np.array([seeds, seeds, *[3] * (num - 2)])
    found = 0
    for _ in range(400):
        means = 0.4 + difference * (np.arange(num) == 0) + rng.normal(0, 0.008, num) / np.sqrt(counts)
        sweep = Replicates([np.full(n, mean) for n, mean in zip(counts, means, strict=True)], sigma=0.008)
        found += bool(stats.separated(sweep, np.arange(num), margin=0)[0][1])
    assert 0.76 <= found / 400 <= 0.9  # rounding up to whole seeds gives a little more than asked for
