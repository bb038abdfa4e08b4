"""A picture at every validation: the people found above, the annotated ones below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset
from hhrnet_deploy.data.images import read_image, write_picture
from hhrnet_deploy.people import People
from hhrnet_deploy.targets.photos import predict_photos
from hhrnet_deploy.targets.runner import Runner
from hhrnet_deploy.visualize.draw import draw_people

_HEIGHT = 320  # px of each photo in the picture


def draw_validation(runner: Runner, dataset: KeypointDataset, path: Path, *, photos: int = 4) -> None:
    """Write a picture of the first photos with people: found above, true below.

    Args:
        runner: an open runner of the network.
        dataset: with annotations.
        path: the image file to write.
        photos: how many.
    """
    chosen = [index for index in range(min(len(dataset), 50)) if len(dataset.joints(dataset[index]))][:photos]
    samples = [dataset[index] for index in chosen]
    if not samples:
        return
    config = InferenceConfig(short_side=runner.info.short_side)
    found = [people for _, people in predict_photos(runner, [(s.image_id, s.path) for s in samples], config)]
    columns = []
    for sample, people in zip(samples, found, strict=True):
        photo = read_image(sample.path)
        true = true_people(dataset.joints(sample))
        rows = [draw_people(photo, who, dataset.skeleton) for who in (people, true)]
        columns.append(np.vstack([_shrunk(row) for row in rows]))
    write_picture(path, np.hstack(columns))


def true_people(joints: npt.NDArray[np.float64]) -> People:
    """Annotated joints (P, K, 3) as people of score 1."""
    keypoints = joints.astype(np.float32)
    keypoints[..., 2] = keypoints[..., 2] > 0
    return People(keypoints, np.ones(len(joints), np.float32), np.zeros((*joints.shape[:2], 1), np.float32))


def latest_picture(folder: Path) -> Path | None:
    """The newest of a run's pictures; their names sort by step."""
    found: Sequence[Path] = sorted(folder.glob("step_*.jpg"))
    return found[-1] if found else None


def _shrunk(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    width = max(1, round(photo.shape[1] * _HEIGHT / photo.shape[0]))
    return np.asarray(cv2.resize(photo, (width, _HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
