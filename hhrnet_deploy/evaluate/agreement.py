"""Whether two engines see the same people: image by image, and as an AP with the reference's people as truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.evaluate.accumulate import average_precision
from hhrnet_deploy.evaluate.matching import ImageTruth, match
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import Skeleton

SAME_PIXELS = 1.0  # of the network input
SAME_SCORE = 0.02
MAX_PEOPLE = 100  # per image, the highest scores of each side
# Of the box of the found joints. CrowdPose takes this share of the box for the area that COCO measures by the outline.
_AREA_OF_BOX = 0.53
# COCO annotates joints of people larger than this only; below, rounding would decide whether two joints agree.
_LEAST_AREA = 32.0**2


@dataclass(frozen=True)
class Agreement:
    """How far a subject's people are the reference's.

    Attributes:
        ap: AP of the subject with the reference's people as ground truth; None where the reference found nobody.
        images_with_different_people: by `same_people`.
    """

    ap: float | None
    images_with_different_people: int


def same_people(
    reference: People,
    other: People,
    *,
    network_scale: float = 1.0,
    pixels: float = SAME_PIXELS,
    score: float = SAME_SCORE,
) -> bool:
    """Whether two engines found the same people in one image, in any order.

    Equal count, and a one-to-one match in which each joint is found (score above 0) in both or in neither, lies within
    ``pixels`` of the network input and has a joint score, the person a score, within ``score``.

    Args:
        reference, other: people in pixels of the photo.
        network_scale: pixels of the network input per pixel of the photo; 1 for people in network pixels.
        pixels: largest distance of a joint in pixels of the network input.
        score: largest difference of scores.
    """
    if len(reference) != len(other) or reference.count != other.count:
        return False
    close = np.abs(reference.scores[:, None] - other.scores[None]) <= score
    for mine, yours in zip(np.moveaxis(reference.keypoints, 1, 0), np.moveaxis(other.keypoints, 1, 0), strict=True):
        close &= _close_joint(mine.astype(np.float64), yours.astype(np.float64), pixels / network_scale, score)
    return _has_perfect_matching(close)


def _close_joint(
    mine: npt.NDArray[np.float64], yours: npt.NDArray[np.float64], pixels: float, score: float
) -> npt.NDArray[np.bool_]:
    """(P, Q): one joint of P people (P, 3) against the same joint of Q people (Q, 3)."""
    found, found_too = mine[:, None, 2] > 0, yours[None, :, 2] > 0
    near = np.hypot(mine[:, None, 0] - yours[None, :, 0], mine[:, None, 1] - yours[None, :, 1]) <= pixels
    alike = np.abs(mine[:, None, 2] - yours[None, :, 2]) <= score
    same: npt.NDArray[np.bool_] = np.where(found & found_too, near & alike, found == found_too)
    return same


def _has_perfect_matching(allowed: npt.NDArray[np.bool_]) -> bool:
    """Whether every row can have a column of its own among its allowed ones (augmenting paths, Kuhn 1955)."""
    column_of: dict[int, int] = {}
    row_of: dict[int, int] = {}
    for row in range(len(allowed)):
        came_from: dict[int, int] = {}
        free = _free_column(allowed, row, row_of, came_from)
        if free is None:
            return False
        column: int | None = free
        while column is not None:
            taker = came_from[column]
            following = column_of.get(taker)
            column_of[taker], row_of[column] = column, taker
            column = following
    return True


def _free_column(
    allowed: npt.NDArray[np.bool_], start: int, row_of: dict[int, int], came_from: dict[int, int]
) -> int | None:
    """The first free column that alternating steps from ``start`` reach; ``came_from`` gets the row of each step."""
    waiting = [start]
    for row in waiting:
        for column in np.flatnonzero(allowed[row]).tolist():
            if column in came_from:
                continue
            came_from[column] = row
            if column not in row_of:
                return int(column)
            waiting.append(row_of[column])
    return None


def truth_of(image_id: int, people: People) -> ImageTruth:
    """The reference's people as annotations: found joints are labelled, the area is 0.53 of their box.

    People without any found joint become regions that count neither way.
    """
    return ImageTruth(image_id, tuple(_annotation(person) for person in people.highest(MAX_PEOPLE).keypoints))


def _annotation(person: npt.NDArray[np.float32]) -> dict[str, object]:
    keypoints = person.astype(np.float64)
    found = keypoints[:, 2] > 0
    keypoints[:, 2] = np.where(found, 2.0, 0.0)
    points = keypoints[found, :2] if found.any() else keypoints[:, :2]
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = (high - low).tolist()
    return {
        "keypoints": keypoints.reshape(-1),
        "num_keypoints": int(found.sum()),
        "iscrowd": 0,
        "bbox": [*low.tolist(), width, height],
        "area": max(width * height * _AREA_OF_BOX, _LEAST_AREA),
    }


def agreement_ap(
    image_ids: Sequence[int], reference: Sequence[People], subject: Sequence[People], skeleton: Skeleton
) -> float | None:
    """AP of the subject's people with the reference's as ground truth; None where the reference found nobody.

    Up to 100 people per image count on either side, all sizes together. Two identical lists have 1.0.
    """
    truth = [truth_of(image_id, people) for image_id, people in zip(image_ids, reference, strict=True)]
    matches = match(truth, subject, skeleton.sigmas, max_people=MAX_PEOPLE, areas=((0.0, 1e10),))
    return average_precision(matches)
