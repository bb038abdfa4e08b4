"""Local maxima and the best M of them per joint (group.py:121-167 of the official code)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.decode.reference.bilinear import Float32


class Candidates(NamedTuple):
    """The candidates of one joint type, best first: pixel coordinates, heat and tags (n, L)."""

    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    value: Float32
    tags: Float32


def max_pool(heat: Float32, kernel: int) -> Float32:
    """The maximum over a ``kernel`` x ``kernel`` window around each value of (H, W); outside counts as -inf."""
    reach = kernel // 2
    padded = np.pad(heat, reach, constant_values=np.float32(-np.inf))
    height, width = heat.shape
    rows = np.max([padded[shift : shift + height] for shift in range(kernel)], axis=0)
    return np.asarray(np.max([rows[:, shift : shift + width] for shift in range(kernel)], axis=0))


def find_peaks(heat: Float32, tags: Float32, *, kernel: int, threshold: float, limit: int) -> Candidates:
    """At most ``limit`` peaks of one joint's heat (H, W) above ``threshold``, by falling heat; ties: lowest y*W + x.

    A peak equals the maximum of its window, so every value of a plateau is one. ``tags`` is (L, H, W).
    """
    peak = (heat == max_pool(heat, kernel)) & (heat.astype(np.float64) > threshold)
    index = np.flatnonzero(peak)
    value = heat.reshape(-1)[index]
    best = np.lexsort((index, -value))[:limit]
    index = index[best]
    y, x = np.divmod(index, heat.shape[1])
    return Candidates(x, y, value[best], np.ascontiguousarray(tags[:, y, x].T))
