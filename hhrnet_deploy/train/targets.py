"""Training targets of one image: Gaussians, and where each visible joint's tag is read (SEMANTICS: training)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


SMALLEST_SIGMA = 1e-3
"""A Gaussian this narrow marks a single pixel."""
_LARGEST_SIGMA = 1e9
"""A Gaussian this wide is 1 in all of a map."""
_SMALLEST_EXACT_SIGMA = 0.5
"""A narrower one could fall between the pixels; this one is 0.37 at each when the joint lies in the middle of four."""


def _gaussian(sigma: float, size: int, centre: tuple[float, float] = (0.0, 0.0)) -> Float32:
    """(2r+1, 2r+1) float32 with r = round(3 sigma + 1); 6 sigma + 3 a side for whole sigmas, as officially.

    ``centre`` is x, y of the joint from the middle of the window, in pixels. No window reaches further than a map of
    ``size`` pixels can show: a box of a million pixels has a sigma to match.
    """
    reach = int(min(np.floor(3 * sigma + 1.5), size))
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    across, down = ((offsets - shift) ** 2 for shift in centre)
    window: Float32 = np.exp(-(down[:, None] + across[None, :]) / (2 * sigma**2)).astype(np.float32)
    return window


@lru_cache(maxsize=512)
def _gaussian_on_pixel(sigma: float, size: int) -> Float32:
    window = _gaussian(sigma, size)
    window.setflags(write=False)
    return window


def _cells(joints: Float64, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Pixel (P, K, 2) of each joint, truncated toward zero, and (P, K) whether it counts."""
    finite = np.where(np.isfinite(joints[..., :2]), joints[..., :2], -2.0)
    cells = np.clip(finite, -2.0, size + 1.0).astype(np.int64)  # int() truncates: -1 < x < 0 lands in column 0
    inside = ((cells >= 0) & (cells < size)).all(axis=-1)
    return cells, inside & (joints[..., 2] > 0)


def gaussian_targets(joints: Float64, size: int, sigmas: float | Float64 = 2.0, *, exact: bool = False) -> Float32:
    """Heat maps the network should give: a Gaussian at each joint, the larger one where they overlap.

    The Gaussian is centred on the truncated pixel and reaches ``3 sigma + 1`` pixels (target_generators.py:27-49 of
    the official code).

    Args:
        joints: (P, K, 3) x, y in pixels of this resolution and visibility (counted when above 0).
        size: side of the square map.
        sigmas: one standard deviation in pixels, or (P,) one for each person (scale-aware).
        exact: centre it half a pixel before the joint, where truncation puts it on average and where the decoder
            reads the joint from; nothing is lost to rounding then. Sigmas below 0.5 count as 0.5.

    Returns:
        (K, size, size) float32.
    """
    heat = np.zeros((joints.shape[1], size, size), np.float32)
    per_person = np.broadcast_to(np.asarray(sigmas, np.float64), (len(joints),))
    cells, counted = _cells(joints, size)
    for person, joint in np.argwhere(counted):
        x, y = (int(value) for value in cells[person, joint])
        sigma = float(per_person[person])
        if exact:
            across, down = joints[person, joint, :2] - 0.5 - (x, y)
            window = _gaussian(max(sigma, _SMALLEST_EXACT_SIGMA), size, (float(across), float(down)))
        else:
            window = _gaussian_on_pixel(sigma, size)
        reach = len(window) // 2
        left, right = max(0, x - reach), min(size, x + reach + 1)
        top, bottom = max(0, y - reach), min(size, y + reach + 1)
        part = window[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
        spot = heat[joint, top:bottom, left:right]
        np.maximum(spot, part, out=spot)
    return heat


def tag_positions(joints: Float64, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where the tag loss reads (target_generators.py:91-112 of the official code), for any number of people.

    Args:
        joints: (P, K, 3) x, y in pixels of the coarse map and visibility.
        size: side of the coarse map.

    Returns:
        index (P, K) int64 into the flattened (K, size, size) tags, 0 where not visible; visible (P, K) bool.
    """
    cells, counted = _cells(joints, size)
    channels = np.arange(joints.shape[1])[None, :]
    index = channels * size * size + cells[..., 1] * size + cells[..., 0]
    return np.where(counted, index, 0), counted


def scale_aware_sigmas(
    boxes: Float64, *, base_size: float = 256.0, base_sigma: float = 2.0, round_up: bool = False
) -> Float64:
    """A standard deviation for each person from its box (COCOKeypoints.py:107-116 of the official code).

    Args:
        boxes: (P, 4) x, y, width, height in source pixels.
        base_size, base_sigma: a person of ``base_size`` pixels gets ``base_sigma``.
        round_up: ``INT_SIGMA``: round(sigma + 0.5), halves to even.

    Returns:
        (P,) float64, before the division by the drawn scale; from ``SMALLEST_SIGMA`` to 1e9.
    """
    sigmas = boxes[:, 2:].max(axis=1, initial=0.0) / base_size * base_sigma
    if round_up:
        sigmas = np.round(sigmas + 0.5)
    return np.asarray(np.clip(sigmas, SMALLEST_SIGMA, _LARGEST_SIGMA), np.float64)
