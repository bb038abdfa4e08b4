"""Pictures next to each other under their titles, to compare what two models see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError

Image = npt.NDArray[np.uint8]

_GAP = 8  # px
_BAR = 34  # px, height of the title
_PAPER = (250, 250, 250)
_INK = (30, 30, 30)
_MAX_TEXT = 0.7


def side_by_side(images: Sequence[Image], titles: Sequence[str]) -> Image:
    """One picture of all, scaled to the height of the tallest.

    Args:
        images: each (H, W, 3) uint8 RGB.
        titles: one per image; ASCII.

    Returns:
        (H + title, sum of widths + gaps, 3) uint8 RGB.

    Raises:
        InputError: no image, or another number of titles.
    """
    if not images or len(images) != len(titles):
        raise InputError(f"Expected one title for each of at least one image, got {len(images)} and {len(titles)}.")
    height = max(image.shape[0] for image in images)
    panels = [_panel(_at_height(image, height), title) for image, title in zip(images, titles, strict=True)]
    gap = np.full((height + _BAR, _GAP, 3), _PAPER, np.uint8)
    row = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(row[1:], axis=1)


def _at_height(image: Image, height: int) -> Image:
    import cv2

    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _panel(image: Image, title: str) -> Image:
    import cv2

    bar = np.full((_BAR, image.shape[1], 3), _PAPER, np.uint8)
    (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, _MAX_TEXT, 1)
    size = min(_MAX_TEXT, _MAX_TEXT * (image.shape[1] - 8) / max(width, 1))
    cv2.putText(bar, title, (4, _BAR - 11), cv2.FONT_HERSHEY_SIMPLEX, max(size, 0.1), _INK, 1, cv2.LINE_AA)
    return np.concatenate([bar, image], axis=0)
