"""Percentiles are samples that were seen, with honest bounds, or null; the rest agrees with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge.bench.statistics import mean, median_deviation, percentile, slope, smallest, trimmed_mean

#: Percentile -> samples it needs: the least n with (q/100)^n <= 2.5 %.
NEEDED = {50: 6, 90: 36, 95: 72, 99: 368, 99.9: 3688}
TIMES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=500)


@given(TIMES, st.sampled_from(sorted(NEEDED)))
def test_a_percentile_is_an_observed_sample_between_observed_bounds_or_null(values: list[float], q: float) -> None:
    samples = np.array(values)
    figure = percentile(samples, q)
    if len(values) < NEEDED[q]:
        assert figure.value is None and figure.interval is None and str(NEEDED[q]) in str(figure.reason)
        return
    assert figure.value is not None and figure.interval is not None and figure.unit == "ms"
    low, high = figure.interval
    assert {low, figure.value, high} <= set(values) and low <= figure.value <= high
    assert np.mean(samples <= figure.value) >= q / 100 - 1e-9 and np.mean(samples < figure.value) <= q / 100 + 1e-9


@pytest.mark.parametrize(("q", "needed"), NEEDED.items())
def test_the_first_count_that_is_enough(q: float, needed: int) -> None:
    assert percentile(np.arange(needed - 1.0), q).value is None
    assert percentile(np.arange(float(needed)), q).value is not None
    assert stats.binom.cdf(needed - 1, needed, q / 100) >= 0.975 > stats.binom.cdf(needed - 2, needed - 1, q / 100)


@given(st.sampled_from(sorted(NEEDED)), st.integers(0, 5000))
def test_the_ranks_of_the_bounds_are_the_tightest_that_cover_95_percent(q: float, more: int) -> None:
    count, share = NEEDED[q] + more, q / 100
    bounds = percentile(np.arange(1.0, count + 1), q).interval  # the n-th sample is n: values are ranks
    assert bounds is not None
    low, high = map(int, bounds)
    below = stats.binom(count, share)
    # too low: fewer than `low` samples lie below the percentile; too high: `high` or more do
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)


@given(st.sampled_from([50, 90, 95, 99]), st.integers(368, 5000), st.integers(0, 2**32 - 1))
def test_the_interval_is_that_of_scipy_s_quantile_test(q: int, count: int, seed: int) -> None:
    samples = np.random.default_rng(seed).lognormal(size=count)
    theirs = stats.quantile_test(samples, q=0, p=q / 100).confidence_interval(0.95)
    assert percentile(samples, q).interval == (theirs.low, theirs.high)


@pytest.mark.parametrize("q", [50, 90, 99])
def test_in_repeated_samples_the_interval_holds_the_true_percentile(q: int) -> None:
    draws = np.random.default_rng(q).lognormal(0.0, 0.5, (1000, 400))
    truth = float(stats.lognorm.ppf(q / 100, 0.5))
    intervals = np.array([percentile(draw, q).interval for draw in draws])
    covered = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(draws))
    assert np.mean(truth < intervals[:, 0]) < 0.045 and np.mean(intervals[:, 1] < truth) < 0.045


@given(TIMES)
def test_mean_trimmed_mean_deviation_and_smallest_are_those_of_scipy_and_numpy(values: list[float]) -> None:
    samples = np.array(values)
    assert mean(samples).value == pytest.approx(np.mean(samples))
    assert trimmed_mean(samples).value == pytest.approx(stats.trim_mean(samples, 0.05))
    assert median_deviation(samples).value == pytest.approx(stats.median_abs_deviation(samples))
    assert smallest(samples).value == min(values)


def test_the_trimmed_mean_forgets_a_twentieth_at_each_end_and_the_mean_nothing() -> None:
    samples = np.array([0.001, *[1.0] * 38, 1000.0])
    assert trimmed_mean(samples).value == 1.0
    assert (mean(samples).value or 0) > 25


@pytest.mark.parametrize("figure", [mean, trimmed_mean, median_deviation, smallest, lambda samples: percentile(samples, 50)])
def test_no_samples_no_figure(figure: object) -> None:
    found = figure(np.array([]))  # type: ignore[operator]
    assert found.value is None and found.reason == "no samples"


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=30))
def test_the_slope_is_the_median_of_all_pairwise_slopes(heights: list[float]) -> None:
    points = list(enumerate(heights))
    pairs = [(y - b) / (x - a) for i, (a, b) in enumerate(points) for x, y in points[i + 1 :]]
    found = slope(points, "B")
    theirs = stats.theilslopes(heights, np.arange(len(heights)), alpha=0.95)
    assert found.value == pytest.approx(np.median(pairs)) and found.unit == "B"
    assert found.interval == pytest.approx((theirs.low_slope, theirs.high_slope))


def test_a_planted_slope_is_found_through_noise_and_one_wild_point() -> None:
    noise = np.random.default_rng(0).normal(0, 100, 21)
    points = [(50 * n, 1e6 + 32 * 50 * n + noise[n]) for n in range(21)]
    points[7] = (350, 9e9)
    found = slope(points, "B")
    assert found.value == pytest.approx(32, rel=0.02)
    assert found.interval is not None and found.interval[0] <= 32 <= found.interval[1]


def test_no_slope_of_four_points_and_none_above_0_of_noise() -> None:
    assert slope([(n, float(n)) for n in range(4)], "B").value is None
    flat = slope([(n, y) for n, y in enumerate(np.random.default_rng(1).normal(size=21))], "B")
    assert flat.interval is not None and flat.interval[0] < 0 < flat.interval[1]
