"""The noise between seeds, as replicates show it."""

import numpy as np
import pytest

from trash_seg.report.noise import ASSUMED_SIGMA, IDENTICAL, Noise, Replicates


def replicates(counts: list[int], *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.4 + 0.01 * i, 0.008, n) for i, n in enumerate(counts)]


def noise_of(scores: list[np.ndarray], *, sigma: float | None = None) -> Noise:
    """Needed for all of them."""
    together = Replicates(scores, sigma=sigma)
    return together.noise(together.like(np.ones(len(scores), dtype=bool)))


def test_the_interval_of_sigma_covers_it() -> None:
    covered = 0
    for seed in range(400):
        noise = noise_of(replicates([3] * 6, seed=seed))
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
    noise = noise_of([np.array(s) for s in scores])
    assert noise.assumed
    assert noise.sigma == ASSUMED_SIGMA
    assert why in noise.why


def test_a_given_sigma_is_used_as_an_assumption() -> None:
    noise = noise_of(replicates([3, 3]), sigma=0.02)
    assert (noise.sigma, noise.df, noise.assumed) == (0.02, np.inf, True)


def test_where_many_spread_more_none_is_an_exception() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(0.4, sigma, 3) for sigma in [0.02] * 4 + [0.0005] * 8]
    assert not Replicates(scores).unstable.any()


def test_seeds_that_agree_too_well_do_not_show_the_noise() -> None:
    learned, flat = [np.array([0.40, 0.41]), np.array([0.39, 0.41])], [np.array([0.3999, 0.4])] * 8
    replicates = Replicates([*learned, *flat])
    assert replicates.identical.tolist() == [False] * 2 + [True] * 8
    assert noise_of([*learned, *flat]).sigma == noise_of(learned).sigma
    assert noise_of(flat).sigma < IDENTICAL  # where all agree so well, that is the noise
