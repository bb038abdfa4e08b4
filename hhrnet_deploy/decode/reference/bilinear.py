"""Bilinear resizing with the bits of PyTorch's NCHW path (align_corners=False, no fused multiply-add)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_HALF = np.float32(0.5)


class Axis(NamedTuple):
    """Where each target index of one axis looks: two source indices and their float32 weights."""

    index0: Int64
    index1: Int64
    weight0: Float32
    weight1: Float32


def axis(source: int, target: int) -> Axis:
    """The sources of ``target`` positions along an axis of ``source`` values (ATen/native/UpSample.h)."""
    if source == target:
        same = np.arange(target)
        return Axis(same, same, np.ones(target, np.float32), np.zeros(target, np.float32))
    scale = np.float32(source) / np.float32(target)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + _HALF) - _HALF, np.float32(0))
    index0 = np.minimum(np.floor(position).astype(np.int64), source - 1)
    index1 = index0 + (index0 < source - 1)
    weight1 = np.clip(position - index0.astype(np.float32), np.float32(0), np.float32(1))
    return Axis(index0, index1, np.float32(1) - weight1, weight1)


def resize(maps: Float32, height: int, width: int) -> Float32:
    """Resize ``maps`` (..., h, w) to (..., height, width): hy0*(wx0*a + wx1*b) + hy1*(wx0*c + wx1*d)."""
    if maps.shape[-2:] == (height, width):
        return maps
    rows, columns = axis(maps.shape[-2], height), axis(maps.shape[-1], width)
    wide = columns.weight0 * maps[..., columns.index0] + columns.weight1 * maps[..., columns.index1]
    upper = rows.weight0[:, None] * wide[..., rows.index0, :]
    return np.asarray(upper + rows.weight1[:, None] * wide[..., rows.index1, :], dtype=np.float32)
