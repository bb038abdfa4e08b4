"""From matches to precision, recall and AP, for any weighting of the images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.evaluate.matching import Float, Matches

_RECALLS = np.linspace(0.0, 1.0, 101)  # pycocotools' recThrs


def precision_and_recall(
    matches: Matches, *, area: int = 0, weights: npt.NDArray[np.int64] | None = None
) -> tuple[Float, Float] | None:
    """COCOeval.accumulate for a selection or repetition of the images.

    Args:
        matches: of I images.
        area: index of the area range.
        weights: (I,) how often each image counts; default once.

    Returns:
        precision (T, 101) at the recall levels and recall (T,); None without an annotation that counts.
    """
    counts = np.ones(len(matches.image_ids), np.int64) if weights is None else weights
    positives = int(matches.positives[area] @ counts)
    if positives == 0:
        return None
    thresholds, people = matches.true.shape[1:]
    precision = np.zeros((thresholds, len(_RECALLS)))
    if people == 0:
        return precision, np.zeros(thresholds)
    weight = counts[matches.image].astype(np.float64)
    hits = np.cumsum(matches.true[area] * weight, axis=1)
    misses = np.cumsum(matches.false[area] * weight, axis=1)
    # The best precision at this or any higher recall.
    envelope = np.maximum.accumulate((hits / (hits + misses + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    recall = hits / positives
    for row in range(thresholds):
        first = np.searchsorted(recall[row], _RECALLS, side="left")
        reached = first < people
        precision[row, reached] = envelope[row, first[reached]]
    return precision, recall[:, -1]


def average_precision(matches: Matches, *, area: int = 0, weights: npt.NDArray[np.int64] | None = None) -> float | None:
    """AP averaged over the ten OKS thresholds; None where no annotation counts."""
    found = precision_and_recall(matches, area=area, weights=weights)
    return None if found is None else float(found[0].mean())
