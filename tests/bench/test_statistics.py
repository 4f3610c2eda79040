"""Percentiles are samples that were seen, or null."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.bench.statistics import percentile


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=2000), st.sampled_from([50, 90, 99]))
def test_a_percentile_is_an_observed_sample_with_enough_beyond_it(values: list[float], q: int) -> None:
    figure = percentile(np.array(values), q)
    if figure.value is None:
        assert q > 50 and len(values) < round(10 / (1 - q / 100)) and figure.reason
    else:
        assert figure.value in values
        assert np.mean(np.array(values) <= figure.value) >= q / 100 - 1e-9


def test_no_samples_no_figure() -> None:
    assert percentile(np.array([]), 50).value is None
