"""Object keypoint similarity, a row of pairs at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


def similarities(evaluation: Any, image_id: int, category_id: int) -> Float | list[float]:
    """(people by descending score, annotations) similarities of one image.

    In the place of ``COCOeval.computeOks``, with the same numbers bit for bit but without its loop over every pair:
    images with dozens of people are common with weak checkpoints, and pair by pair they take pycocotools minutes.
    """
    annotations, people = evaluation._gts[image_id, category_id], evaluation._dts[image_id, category_id]
    if not annotations or not people:
        return []
    params = evaluation.params
    order = np.argsort([-person["score"] for person in people], kind="stable")[: params.maxDets[-1]]
    points = np.stack([people[index]["keypoints"] for index in order])
    variances = (np.asarray(params.kpt_oks_sigmas) * 2) ** 2
    return np.stack([_similarity(points, item, variances) for item in annotations], axis=1)


def _similarity(points: Float, annotation: dict[str, Any], variances: Float) -> Float:
    """(D,) similarities of D people (D, 3K) with one annotation."""
    target = annotation["keypoints"]
    labelled = target[2::3] > 0
    if labelled.any():
        dx, dy = points[:, 0::3] - target[0::3], points[:, 1::3] - target[1::3]
    else:
        # Nothing labelled: the distance to a box three times the size, with the person's own in its middle.
        x, y, width, height = annotation["bbox"]
        dx = _outside(points[:, 0::3], x - width, x + width * 2)
        dy = _outside(points[:, 1::3], y - height, y + height * 2)
    error = (dx**2 + dy**2) / variances / (annotation["area"] + np.spacing(1)) / 2
    if labelled.any():
        error = np.ascontiguousarray(error[:, labelled])
    similarity: Float = np.sum(np.exp(-error), axis=1) / error.shape[1]
    return similarity


def _outside(values: Float, low: float, high: float) -> Float:
    return np.maximum(0.0, low - values) + np.maximum(0.0, values - high)
