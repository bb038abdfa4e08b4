"""The figures people know: COCO's ten and CrowdPose's nine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hhrnet_deploy.data.crowdpose import image_id_of
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.accumulate import average_precision
from hhrnet_deploy.evaluate.matching import Matches

Metrics = dict[str, float | None]

COCO_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
_CROWDPOSE_SHARED = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")
# Upper ends of crowdIndex in the API's code (crowdposetools cocoeval.py, _summarizeKps); the paper says 0.1.
_EASY, _MEDIUM = 0.2, 0.8


def coco_metrics(matches: Matches) -> Metrics:
    """The ten figures of COCOeval.summarize; None where undefined (no annotation of that size)."""
    return {name: None if value < 0 else value for name, value in zip(COCO_NAMES, matches.stats, strict=True)}


def crowdpose_metrics(matches: Matches, crowd_index: Mapping[int, float]) -> Metrics:
    """The nine figures of crowdposetools, unrounded: AP, AR and the AP of easy, medium and hard images.

    Args:
        matches: of the evaluated images, with sigmas and areas of the CrowdPose skeleton.
        crowd_index: crowdIndex of each evaluated image id.
    """
    shared = coco_metrics(matches)
    crowding = np.array([crowd_index[int(image_id)] for image_id in matches.image_ids], np.float64)
    levels = {
        "AP_easy": crowding < _EASY,
        "AP_medium": (crowding >= _EASY) & (crowding < _MEDIUM),
        "AP_hard": crowding >= _MEDIUM,
    }
    by_level = {name: average_precision(matches, weights=chosen.astype(np.int64)) for name, chosen in levels.items()}
    return {name: shared[name] for name in _CROWDPOSE_SHARED} | by_level


def crowd_indices(annotation_file: Path) -> dict[int, float]:
    """crowdIndex by image id (the number in the file name) of a CrowdPose annotation file.

    Raises:
        InputError: an image has none.
    """
    images = json.loads(annotation_file.read_text(encoding="utf-8-sig"))["images"]
    without = [image["file_name"] for image in images if not isinstance(image.get("crowdIndex"), int | float)]
    if without:
        raise InputError(
            f"{len(without)} images in {annotation_file} have no crowdIndex, the first is {without[0]}.",
            hint="CrowdPose's own annotation files have it; AP of easy, medium and hard images needs it.",
        )
    return {image_id_of(image["file_name"]): float(image["crowdIndex"]) for image in images}
