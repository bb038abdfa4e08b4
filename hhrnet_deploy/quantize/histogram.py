"""Histograms of activation magnitudes, and the ways to choose a clipping threshold from them.

A histogram has a fixed number of bins over [0, ``top``); when a larger value comes, ``top`` doubles and neighbouring
bins are merged. So memory is bounded, one pass is enough, and the result depends only on the order of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

BINS = 2048
Method = Literal["minmax", "percentile", "entropy", "mse", "lp"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_METHOD: Method = "lp"
PERCENTILE = 99.99
# Heat maps are rare peaks: clipping them weighs more than in a mean square.
LP_EXPONENT = 2.25
_SMALLEST_TOP = 2.0**-24
_CANDIDATES = 96
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


class Histogram:
    """Counts of |x| over [0, top), top a power of two.

    Attributes:
        counts: (BINS,) int64.
        top: upper end of the last bin; 0 before the first value.
    """

    def __init__(self, counts: Counts | None = None, top: float = 0.0) -> None:
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts
        self.top = top

    def add(self, values: Float32) -> None:
        """Count values of any shape; their sign is ignored."""
        magnitudes = np.abs(values.ravel())
        if not magnitudes.size:
            return
        self._reach(float(magnitudes.max()))
        # A power of two: the product is exact, so equal values always share a bin.
        bins = (magnitudes * np.float32(BINS / self.top)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def _reach(self, largest: float) -> None:
        if self.top == 0.0:
            self.top = _SMALLEST_TOP
        while self.top <= largest:
            self.top *= 2.0
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros(BINS // 2, np.int64)])

    @property
    def centres(self) -> Float64:
        """(BINS,) the middle of each bin."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * np.float64(self.top / BINS)


def threshold(histogram: Histogram, largest: float, method: Method, levels: int) -> float:
    """The magnitude at which an activation is clipped.

    Args:
        histogram: of the magnitudes, a sample of them.
        largest: the largest magnitude of all values, sampled or not.
        method: ``minmax``: ``largest``; ``percentile``: 99.99% of the sample is below; ``entropy``: smallest
            Kullback-Leibler divergence between sample and quantised sample (Migacz, "8-bit inference with TensorRT",
            GTC 2017); ``mse``: smallest mean squared error; ``lp``: smallest mean error to the power of 2.25.
        levels: steps between 0 and the threshold: 127 for int8, 255 for uint8.

    Returns:
        Greater than 0 unless every value was 0; never above ``largest``.
    """
    if method == "minmax" or not histogram.counts.any() or largest == 0.0:
        return largest
    chosen = _CHOICES[method](histogram, levels)
    return min(chosen, largest) if chosen > 0 else largest


def _percentile(histogram: Histogram, levels: int) -> float:
    del levels
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    number = int(np.searchsorted(below, PERCENTILE / 100.0))
    return float((number + 1) * histogram.top / BINS)


def _candidates(histogram: Histogram, fewest: int) -> list[int]:
    """Numbers of bins to try as the clipping point, up to the last that is not empty."""
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    first = min(max(last // 8, fewest), last)
    return sorted({int(number) for number in np.linspace(first, last, _CANDIDATES)})


def _mse(histogram: Histogram, levels: int) -> float:
    return _smallest_error(histogram, levels, 2.0)


def _lp(histogram: Histogram, levels: int) -> float:
    return _smallest_error(histogram, levels, LP_EXPONENT)


def _smallest_error(histogram: Histogram, levels: int, exponent: float) -> float:
    width, centres, weights = histogram.top / BINS, histogram.centres, histogram.counts.astype(np.float64)
    errors = {}
    for number in _candidates(histogram, 1):
        step = number * width / levels
        quantised = np.minimum(np.rint(centres / step), levels) * step
        errors[number] = float(weights @ np.abs(centres - quantised) ** exponent)
    return min(errors, key=lambda number: (errors[number], number)) * width


def _entropy(histogram: Histogram, levels: int) -> float:
    width = histogram.top / BINS
    counts = histogram.counts.astype(np.float64)
    # Zeros after a ReLU are exact at any scale; left in, they outweigh everything else.
    counts[0] = 0.0
    if not counts.any():
        return float((np.flatnonzero(histogram.counts)[-1] + 1) * width)
    divergences = {}
    for number in _candidates(histogram, levels):
        divergences[number] = _divergence(counts, number, levels)
    return min(divergences, key=lambda number: (divergences[number], number)) * width


def _divergence(counts: Float64, number: int, levels: int) -> float:
    reference = counts[:number].copy()
    kept = reference > 0
    group = np.minimum(np.arange(number) * levels // number, levels - 1)
    totals = np.bincount(group, weights=reference, minlength=levels)
    filled = np.bincount(group, weights=kept, minlength=levels)
    spread = np.where(kept, (totals / np.maximum(filled, 1.0))[group], 0.0)
    reference[-1] += counts[number:].sum()
    p, q = reference / reference.sum(), spread / max(spread.sum(), 1.0)
    # A bin that only the clipped values fill has no counterpart; a small mass stands for it.
    p, q = p[p > 0], np.maximum(q[p > 0], 1e-12)
    return float(np.sum(p * np.log(p / q)))


_CHOICES: dict[Method, Callable[[Histogram, int], float]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
    "lp": _lp,
}
