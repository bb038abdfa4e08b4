"""Random annotations and people near them: crowds, unlabelled people, misses, strangers, all sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from naive_ap import Annotated, Found
from photo_world import people_of

from hhrnet_deploy.people import People


def draw(seed: int, images: int, joints: int, *, most: int = 6) -> tuple[list[list[dict[str, Any]]], list[People]]:
    """Annotations (as in the JSON) and people of each image."""
    rng = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(images):
        truths = [_annotation(rng, image, joints) for _ in range(rng.integers(0, most))]
        annotations.append(truths)
        found.append(_people(rng, truths, joints, strangers=int(rng.integers(0, 3))))
    return annotations, found


def _annotation(rng: np.random.Generator, image: int, joints: int) -> dict[str, Any]:
    side = float(np.exp(rng.uniform(np.log(20), np.log(200))))
    corner = rng.uniform(0, 300, 2)
    keypoints = np.zeros((joints, 3))
    keypoints[:, :2] = corner + rng.uniform(0, side, (joints, 2))
    keypoints[:, 2] = rng.choice([0, 1, 2], joints, p=[0.2, 0.3, 0.5])
    if rng.random() < 0.15:
        keypoints[:, 2] = 0
    return {
        "id": int(rng.integers(1, 1 << 30)),
        "image_id": image,
        "category_id": 1,
        "iscrowd": int(rng.random() < 0.1),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "keypoints": (keypoints * (keypoints[:, 2:] > 0)).reshape(-1).tolist(),
        "bbox": [*corner.tolist(), side, side],
        "area": side * side * 0.6,
    }


def _people(rng: np.random.Generator, truths: list[dict[str, Any]], joints: int, strangers: int) -> People:
    keypoints = []
    for truth in truths:
        for _ in range(int(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2]))):
            points = np.array(truth["keypoints"]).reshape(joints, 3)[:, :2]
            keypoints.append(points + rng.normal(0, rng.uniform(0, 0.12) * truth["bbox"][2], points.shape))
    keypoints += [rng.uniform(0, 400, (joints, 2)) for _ in range(strangers)]
    full = np.ones((len(keypoints), joints, 3))
    if keypoints:
        full[:, :, :2] = np.stack(keypoints)
    return people_of(full, rng.uniform(0, 1, len(keypoints)))


def as_naive(annotations: list[dict[str, Any]], people: People, *, area_factor: float | None = None) -> tuple:
    """One image for `naive_ap`."""
    truths = []
    for item in annotations:
        keypoints = np.array(item["keypoints"]).reshape(-1, 3)
        box = item["bbox"]
        area = item["area"] if area_factor is None else box[2] * box[3] * area_factor
        points = [(float(x), float(y), int(v)) for x, y, v in keypoints]
        truths.append(Annotated(points, tuple(box), area, crowd=bool(item["iscrowd"])))
    found = [
        Found([(float(x), float(y)) for x, y, _ in person], float(score))
        for person, score in zip(people.keypoints.astype(np.float64), people.scores, strict=True)
    ]
    return found, truths
