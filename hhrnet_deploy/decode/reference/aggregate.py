"""Merging the network's outputs for one image at half resolution (inference.py:85-146 of the official code)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hhrnet_deploy.decode.reference.bilinear import Float32, resize
from hhrnet_deploy.heads import Array

_HALF = np.float32(0.5)


def merge_heat(
    coarse: Array, fine: Array, coarse_flipped: Array | None, fine_flipped: Array | None, flip_index: Sequence[int]
) -> Float32:
    """The heat map (K, H/2, W/2): the mean of both resolutions, and of the two flip sides.

    Args:
        coarse: (2K, H/4, W/4), heat maps then tags.
        fine: (K, H/2, W/2).
        coarse_flipped, fine_flipped: the raw outputs for the mirrored image, or None.
        flip_index: the channel of the mirrored image that shows joint k.
    """
    heat = _mean_of_resolutions(coarse, fine)
    if coarse_flipped is None or fine_flipped is None:
        return heat
    mirrored = _mean_of_resolutions(coarse_flipped, fine_flipped)
    return (heat + mirrored[list(flip_index), :, ::-1]) * _HALF


def merge_tags(coarse: Array, coarse_flipped: Array | None, fine: Array, flip_index: Sequence[int]) -> Float32:
    """The tag maps (K, L, H/2, W/2); L is 2 when the mirrored image's are given: stacked, never averaged."""
    joints, height, width = fine.shape
    sides = [resize(coarse[joints:].astype(np.float32), height, width)]
    if coarse_flipped is not None:
        mirrored = resize(coarse_flipped[joints:].astype(np.float32), height, width)
        sides.append(mirrored[list(flip_index), :, ::-1])
    return np.stack(sides, axis=1)


def _mean_of_resolutions(coarse: Array, fine: Array) -> Float32:
    joints, height, width = fine.shape
    raised = resize(coarse[:joints].astype(np.float32), height, width)
    return np.asarray((raised + fine.astype(np.float32)) * _HALF, dtype=np.float32)
