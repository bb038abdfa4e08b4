"""How sure a difference in AP is: the paired bootstrap over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.accumulate import average_precision
from hhrnet_deploy.evaluate.matching import Matches

_SEED = 20171
_LEAST_IMAGES = 2


@dataclass(frozen=True)
class Interval:
    """A percentile interval of the drop in AP (reference minus subject).

    Attributes:
        low, high: AP, 0 to 1.
        confidence: the share of resamples within.
        resamples: how many the interval rests on.
    """

    low: float
    high: float
    confidence: float
    resamples: int


def paired_interval(
    reference: Matches, subject: Matches, *, resamples: int = 1000, confidence: float = 0.95, seed: int = _SEED
) -> Interval | None:
    """The percentile bootstrap interval of AP(reference) - AP(subject) over images drawn with replacement.

    Both are evaluated on the same draw of images, so what is hard for both cancels (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, section 13.3). Deterministic for a seed.

    Returns:
        None with fewer than two images or where no draw has an annotation that counts.
    """
    if not np.array_equal(reference.image_ids, subject.image_ids):
        raise InputError("A paired interval needs both models evaluated on the same images.")
    images = len(reference.image_ids)
    if images < _LEAST_IMAGES:
        return None
    generator = np.random.default_rng(seed)
    drops = []
    for _ in range(resamples):
        weights = np.bincount(generator.integers(images, size=images), minlength=images)
        before = average_precision(reference, weights=weights)
        after = average_precision(subject, weights=weights)
        if before is not None and after is not None:
            drops.append(before - after)
    if not drops:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(drops, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, len(drops))
