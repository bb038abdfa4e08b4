"""Bringing the merged maps of every scale to the grid in which people are found (inference.py:179-205)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hhrnet_deploy.decode.reference.bilinear import Float32, resize


def project_heat(merged: Sequence[Float32], width: int, height: int) -> Float32:
    """The mean over scales, in the order given, of the heat maps resized to (K, height, width)."""
    total = resize(merged[0], height, width)
    for scale in merged[1:]:
        total = total + resize(scale, height, width)
    return total if len(merged) == 1 else np.asarray(total / np.float32(len(merged)), dtype=np.float32)


def project_tags(merged: Float32, width: int, height: int) -> Float32:
    """The tag maps (K, L, H/2, W/2) resized to (K, L, height, width): their second interpolation."""
    return resize(merged, height, width)
