from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hhrnet_deploy.quantize.histogram import BINS, METHODS, Histogram, threshold


def of(*parts: object) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


def test_growing_keeps_every_count_and_the_order_of_parts_with_one_range_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=1000), rng.normal(size=1000) * 1000
    grown, other = of(small, large), of(large, small)
    assert grown.counts.sum() == 2000
    assert grown.top == other.top >= np.abs(large).max()
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(other.counts)).max() <= 1000
    # Merging pairs of bins moves no count across the borders of the merged bins.
    np.testing.assert_array_equal(grown.counts, other.counts)


def test_the_sign_is_ignored_and_zero_is_counted() -> None:
    histogram = of([-1.5, 1.5, 0.0])
    assert histogram.counts[0] == 1
    assert histogram.counts.max() == 2


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.sampled_from(METHODS))
@settings(max_examples=80, deadline=None)
def test_thresholds_are_positive_and_never_above_the_largest_value(values: list[float], method: str) -> None:
    histogram = of(values)
    largest = float(np.abs(np.asarray(values, np.float32)).max())
    chosen = threshold(histogram, largest, method, 127)  # type: ignore[arg-type]
    assert 0 <= chosen <= largest
    assert (chosen > 0) == (largest > 0)


def test_minmax_takes_the_exact_extreme() -> None:
    assert threshold(of([1.0, 2.0]), 2.7, "minmax", 127) == 2.7


def test_percentile_leaves_out_a_ten_thousandth() -> None:
    values = np.concatenate([np.linspace(0, 1, 100_000), [500.0] * 5])
    assert threshold(of(values), 500.0, "percentile", 127) == pytest.approx(1.0, abs=500 / BINS * 1.1)


@pytest.mark.parametrize(("method", "exponent"), [("mse", 2.0), ("lp", 2.25)])
@pytest.mark.parametrize("levels", [127, 255])
def test_error_methods_find_the_smallest_error(method: str, exponent: float, levels: int) -> None:
    values = np.abs(np.random.default_rng(1).standard_t(3, size=200_000)).astype(np.float32)
    largest = float(values.max())
    chosen = threshold(of(values), largest, method, levels)  # type: ignore[arg-type]

    def error(limit: float) -> float:
        step = limit / levels
        return float(np.mean(np.abs(values - np.minimum(np.rint(values / step), levels) * step) ** exponent))

    best = min(error(limit) for limit in np.linspace(largest / 10, largest, 60))
    assert error(chosen) <= best * 1.03
    assert chosen < largest


def test_entropy_ignores_the_zeros_of_a_relu_and_clips_a_long_tail() -> None:
    rng = np.random.default_rng(2)
    body = np.abs(rng.normal(size=100_000))
    tail = rng.uniform(20, 100, size=30)
    sparse = of(np.zeros(1_000_000), body, tail)
    dense = of(body, tail)
    chosen = threshold(sparse, 100.0, "entropy", 127)
    assert chosen == threshold(dense, 100.0, "entropy", 127)
    assert chosen < 60


def test_a_tensor_of_zeros_has_no_threshold() -> None:
    for method in METHODS:
        assert threshold(of(np.zeros(10)), 0.0, method, 127) == 0.0
