"""NumPy's float32 means, written out, because their order of additions decides bits.

``np.mean`` adds eight interleaved partial sums when a contiguous or strided vector has eight values or more
(numpy/_core/src/umath/loops_utils.h.src, pairwise sum), and adds row by row when it reduces the first axis of (n, L),
L > 1. Valid up to 128 values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
_LANES = 8


def mean_of_vector(values: Float32) -> np.float32:
    """The float32 mean of a vector (n,), n from 1 to 128."""
    return np.float32(_pairwise_sum(values) / np.float32(len(values)))


def mean_of_tags(tags: Sequence[Float32]) -> Float32:
    """The float32 mean (L,) of n tags (L,), in their order: the tag of a person."""
    stacked = np.stack(tags)
    if stacked.shape[1] == 1:
        return np.array([mean_of_vector(stacked[:, 0])], np.float32)
    total = np.zeros(stacked.shape[1], np.float32)
    for tag in stacked:
        total = total + tag
    return np.asarray(total / np.float32(len(stacked)), dtype=np.float32)


def _pairwise_sum(values: Float32) -> np.float32:
    whole = len(values) - len(values) % _LANES
    total = np.float32(0)
    if whole:
        lane = values[:_LANES].copy()
        for start in range(_LANES, whole, _LANES):
            lane += values[start : start + _LANES]
        total = np.float32(((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7])))
    for value in values[whole:]:
        total = np.float32(total + value)
    return total
