"""Looking for a person's missing joints by tag (group.py:198-281 of the official code)."""

from __future__ import annotations

import numpy as np

from hhrnet_deploy.decode.reference.adjust import quarter_offset
from hhrnet_deploy.decode.reference.bilinear import Float32
from hhrnet_deploy.decode.reference.means import mean_of_tags

_CENTRE = np.float32(0.5)


def refine(keypoints: Float32, heat: Float32, tags: Float32) -> None:
    """Fill missing joints of one person (K, 3) in place, where the heat at the best place is positive.

    The best place of a joint is the first maximum (row-major) of heat - round(distance to the person's tag), in
    float32. ``heat`` is (K, H, W), ``tags`` (K, L, H, W).
    """
    found = np.flatnonzero(keypoints[:, 2] > 0)
    person_tag = mean_of_tags([tags[joint, :, int(keypoints[joint, 1]), int(keypoints[joint, 0])] for joint in found])
    for joint in np.flatnonzero(keypoints[:, 2] == 0):
        x, y = _best_place(heat[joint], tags[joint], person_tag)
        if heat[joint, y, x] > 0:
            shift_x, shift_y = quarter_offset(heat[joint], x, y)
            keypoints[joint] = x + _CENTRE + shift_x, y + _CENTRE + shift_y, heat[joint, y, x]


def _best_place(heat: Float32, tags: Float32, person_tag: Float32) -> tuple[int, int]:
    squared = np.zeros_like(heat)
    for side, value in zip(tags, person_tag, strict=True):
        difference = side - value
        squared = squared + difference * difference
    y, x = np.divmod(int(np.argmax(heat - np.round(np.sqrt(squared)))), heat.shape[1])
    return int(x), int(y)
