"""Which people a prediction keeps. All off by default: each of these changes AP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import Float32, People
from hhrnet_deploy.skeletons import Skeleton

# Two poses this alike (object keypoint similarity of their common joints) are one person drawn twice.
_DUPLICATE_SIMILARITY = 0.7
_MIN_COMMON_JOINTS = 3


@dataclass(frozen=True)
class PeopleFilter:
    """Applied in this order: duplicates, scores, number.

    Attributes:
        min_score: keep people with at least this score (mean over all joints).
        max_people: keep the highest scores, in insertion order.
        suppress_duplicates: drop a person whose pose repeats that of one with a higher score.

    Raises:
        InputError: a score that is not between 0 and 1, or fewer people than one.
    """

    min_score: float = 0.0
    max_people: int | None = None
    suppress_duplicates: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score has to be between 0 and 1, got {self.min_score!r}.")
        if self.max_people is not None and self.max_people < 1:
            raise InputError(f"max_people has to be at least 1, got {self.max_people!r}.")

    def __call__(self, people: People, skeleton: Skeleton) -> People:
        """The people that stay, in insertion order."""
        if self.suppress_duplicates:
            people = without_duplicates(people, skeleton)
        people = people.select(people.scores >= self.min_score)
        return people if self.max_people is None else people.highest(self.max_people)


def without_duplicates(people: People, skeleton: Skeleton) -> People:
    """Greedy suppression by object keypoint similarity over the joints that both have.

    A joint found twice by grouping gives two people who share most of a pose. COCO's OKS (sigma per joint, object
    area of the better one) measures that; at least three common joints have to agree.
    """
    kept: list[int] = []
    for index in np.argsort(-people.scores, kind="stable"):
        candidate = people.keypoints[index]
        if all(_similarity(people.keypoints[other], candidate, skeleton) < _DUPLICATE_SIMILARITY for other in kept):
            kept.append(int(index))
    return people.select(np.sort(np.asarray(kept, dtype=np.intp)))


def _similarity(better: Float32, other: Float32, skeleton: Skeleton) -> float:
    common = (better[:, 2] > 0) & (other[:, 2] > 0)
    if np.count_nonzero(common) < _MIN_COMMON_JOINTS:
        return 0.0
    found = better[better[:, 2] > 0, :2]
    width, height = found.max(axis=0) - found.min(axis=0)
    area = max(float(width * height), 1.0)
    variance = (2 * np.asarray(skeleton.sigmas)[common]) ** 2
    squared = ((better[common, :2].astype(np.float64) - other[common, :2]) ** 2).sum(axis=1)
    return float(np.exp(-squared / (2 * area * variance)).mean())
