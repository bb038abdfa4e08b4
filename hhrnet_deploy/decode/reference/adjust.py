"""Moving joints toward their larger neighbours (group.py:177-196 of the official code)."""

from __future__ import annotations

import numpy as np

from hhrnet_deploy.decode.reference.bilinear import Float32

_QUARTER = np.float32(0.25)
_CENTRE = np.float32(0.5)


def quarter_offset(heat: Float32, x: int, y: int) -> tuple[np.float32, np.float32]:
    """+-0.25 toward the larger of the right/left and down/up neighbours in (H, W); minus on ties; edges clamp."""
    height, width = heat.shape
    right = heat[y, min(x + 1, width - 1)] > heat[y, max(x - 1, 0)]
    down = heat[min(y + 1, height - 1), x] > heat[max(y - 1, 0), x]
    return (_QUARTER if right else -_QUARTER), (_QUARTER if down else -_QUARTER)


def adjust(keypoints: Float32, heat: Float32) -> None:
    """Move every found joint of one person (K, 3) in place by its quarter offset and by +0.5; ``heat`` is (K, H, W)."""
    for joint in np.flatnonzero(keypoints[:, 2] > 0):
        x, y = (int(value) for value in keypoints[joint, :2])
        shift_x, shift_y = quarter_offset(heat[joint], x, y)
        keypoints[joint, :2] = x + shift_x + _CENTRE, y + shift_y + _CENTRE
