"""People in the official results format (COCODataset.py:168-283 of the official code)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.files import replacing
from hhrnet_deploy.people import People

CATEGORY_ID = 1  # "person" in COCO and CrowdPose


def results_name(split: str) -> str:
    """The file name of the official results of a split, for example ``keypoints_test-dev2017_results.json``."""
    return f"keypoints_{split}_results.json"


def finite(people: People) -> tuple[People, int]:
    """People without NaN or infinity, and how many had some.

    pycocotools takes an OKS of NaN for a match, and JSON has no NaN. A joint with such a value becomes (0, 0, 0), such
    a person score 0: the person stays and counts as found, almost surely wrongly.
    """
    joints = np.all(np.isfinite(people.keypoints), axis=2)
    scores = np.isfinite(people.scores)
    broken = int(np.count_nonzero(~(np.all(joints, axis=1) & scores)))
    if not broken:
        return people, 0
    keypoints = np.where(joints[:, :, None], people.keypoints, np.float32(0))
    return People(keypoints, np.where(scores, people.scores, np.float32(0)), people.tags, people.count), broken


def box_of(keypoints: npt.NDArray[Any]) -> list[float]:
    """[x, y, w, h] over all joints of one person, missing ones included, as the official code writes it."""
    low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
    return [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])]


def official_results(image_id: int, people: People, *, category_id: int = CATEGORY_ID) -> list[dict[str, Any]]:
    """One entry per person, in insertion order; nobody gives an empty list.

    Each has image_id, category_id, 3K keypoint numbers (x, y, joint score), the person score (the mean over all joints
    before refinement) and the box over all joints.
    """
    keypoints = people.keypoints.astype(np.float64)
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": person.reshape(-1).tolist(),
            "score": float(score),
            "bbox": box_of(person),
        }
        for person, score in zip(keypoints, people.scores, strict=True)
    ]


def write_results(path: Path, images: Iterable[tuple[int, People]], *, category_id: int = CATEGORY_ID) -> int:
    """Write the official results JSON, atomically and one image at a time; the number of people written."""
    written = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for image_id, people in images:
            for entry in official_results(image_id, finite(people)[0], category_id=category_id):
                stream.write(",\n" if written else "\n")
                json.dump(entry, stream, sort_keys=True, allow_nan=False)
                written += 1
        stream.write("\n]\n")
    return written
