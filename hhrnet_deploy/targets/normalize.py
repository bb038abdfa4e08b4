"""Pixels to network input on the host, the arithmetic of the exported graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import IMAGE_MEAN, IMAGE_STD


def normalize(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(N, H, W, 3) uint8 RGB to (N, 3, H, W) float32: /255, minus mean, over standard deviation, in that order."""
    mean = np.asarray(IMAGE_MEAN, np.float32).reshape(1, 3, 1, 1)
    std = np.asarray(IMAGE_STD, np.float32).reshape(1, 3, 1, 1)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    planes /= np.float32(255)
    planes -= mean
    planes /= std
    return planes
