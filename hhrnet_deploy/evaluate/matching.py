"""Which people match which annotations at which OKS threshold: pycocotools' COCOeval, kept quiet and compact."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data.labels import CHECK_HINT, is_crowd, labelled_joints
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.oks import similarities
from hhrnet_deploy.evaluate.results import CATEGORY_ID, box_of
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import Skeleton

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

MAX_PEOPLE = 20  # per image, the highest scores (pycocotools' keypoint setting)
_NO_LIMIT = 1e10  # px^2; pycocotools' upper end of every area range
AREAS = ((0.0, _NO_LIMIT), (32.0**2, 96.0**2), (96.0**2, _NO_LIMIT))  # all, medium, large


@dataclass(frozen=True)
class ImageTruth:
    """The annotated people of one image, as `annotated` or `agreement.truth_of` made them."""

    image_id: int
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Matches:
    """What COCOeval found, enough to accumulate any selection or repetition of the images.

    Attributes:
        image_ids: I ids, ascending.
        image: (D,) index into ``image_ids`` of each detection, descending score (stable).
        scores: (D,) person scores.
        true: (A, T, D) matched to an annotation that counts.
        false: (A, T, D) matched to nothing, and counts.
        positives: (A, I) annotations that count.
        stats: the ten figures of COCOeval.summarize, -1 where undefined; empty when it has other area ranges.
    """

    image_ids: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    scores: Float
    true: Bool
    false: Bool
    positives: npt.NDArray[np.int64]
    stats: tuple[float, ...]


def annotated(image_id: int, annotations: Sequence[dict[str, Any]], skeleton: Skeleton) -> ImageTruth:
    """Annotations as COCOeval wants them.

    The object area is the annotation's, or ``h * w * box_area_factor`` where the skeleton has that factor (CrowdPose).
    ``num_keypoints`` is taken as it stands (CrowdPose counts visible joints only), otherwise counted; an annotation
    without labelled joints is a region where people are neither right nor wrong.

    Raises:
        InputError: the number of keypoints is not 3K, or box or area are missing or no finite numbers, or the area
            is below zero.
    """
    return ImageTruth(image_id, tuple(_annotation(image_id, item, skeleton) for item in annotations))


def _annotation(image_id: int, item: dict[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    name = f"Annotation {item.get('id', '?')} of image {image_id}"
    keypoints = _numbers(name, "keypoints", item.get("keypoints") or [0.0] * 3 * skeleton.num_joints)
    if keypoints.size != 3 * skeleton.num_joints:
        raise InputError(
            f"{name} has {keypoints.size} keypoint numbers; {skeleton.num_joints} joints need "
            f"{3 * skeleton.num_joints}.",
            hint="Give the skeleton of this dataset with --skeleton.",
        )
    box = _numbers(name, "bbox", item.get("bbox") or [])
    if box.size != 4:
        raise InputError(f"{name} has no box (bbox: x, y, w, h).", hint=CHECK_HINT)
    return {
        "keypoints": keypoints,
        "num_keypoints": labelled_joints(item),
        "iscrowd": int(is_crowd(item)),
        "bbox": box.tolist(),
        "area": _area(name, item, box, skeleton.box_area_factor),
    }


def _area(name: str, item: dict[str, Any], box: Float, factor: float | None) -> float:
    if factor is not None:
        return float(box[3] * box[2] * factor)
    if item.get("area") is None:
        raise InputError(
            f"{name} has no area, which OKS needs.", hint="Add it, or set box_area_factor in the skeleton file."
        )
    area = float(_numbers(name, "area", [item["area"]])[0])
    if area < 0:
        raise InputError(f"{name} has an area below zero: {area:g}.", hint=CHECK_HINT)
    return area


def _numbers(name: str, key: str, values: Any) -> Float:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"{name} needs finite numbers as {key}, got {values!r}.", hint=CHECK_HINT)
    return numbers


def match(
    truth: Sequence[ImageTruth],
    found: Sequence[People],
    sigmas: Sequence[float],
    *,
    max_people: int = MAX_PEOPLE,
    areas: Sequence[tuple[float, float]] = AREAS,
) -> Matches:
    """Match the people of each image with its annotations.

    Args:
        truth: I images.
        found: the people of the same images, finite, in pixels of the photo.
        sigmas: K OKS constants.
        max_people: people per image that count, the highest scores.
        areas: ranges of the object area in px^2; the first is the one of plain AP.
    """
    evaluation = _evaluation(sigmas, max_people, areas)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.cocoGt = _coco(truth, [image.annotations for image in truth])
        evaluation.cocoDt = _coco(truth, [_detections(people, max_people) for people in found])
        evaluation.params.imgIds = sorted(image.image_id for image in truth)
        evaluation.params.catIds = [CATEGORY_ID]
        evaluation.evaluate()
        evaluation.accumulate()
        if tuple(areas) == AREAS and max_people == MAX_PEOPLE:
            evaluation.summarize()
    return _compact(evaluation)


def _evaluation(sigmas: Sequence[float], max_people: int, areas: Sequence[tuple[float, float]]) -> Any:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="keypoints")
    evaluation.computeOks = partial(similarities, evaluation)
    evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    evaluation.params.maxDets = [max_people]
    evaluation.params.areaRng = [list(limits) for limits in areas]
    evaluation.params.areaRngLbl = ["all", "medium", "large"][: len(areas)]
    return evaluation


def _coco(truth: Sequence[ImageTruth], annotations: Sequence[Sequence[dict[str, Any]]]) -> Any:
    """A pycocotools dataset; ids from 1, because COCOeval takes the id 0 for "no match"."""
    from pycocotools.coco import COCO

    numbered = [
        {**item, "image_id": image.image_id, "category_id": CATEGORY_ID}
        for image, items in zip(truth, annotations, strict=True)
        for item in items
    ]
    for number, item in enumerate(numbered, start=1):
        item["id"] = number
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": image.image_id} for image in truth],
        "categories": [{"id": CATEGORY_ID, "name": "person"}],
        "annotations": numbered,
    }
    dataset.createIndex()
    return dataset


def _detections(people: People, limit: int) -> list[dict[str, Any]]:
    kept = people.highest(limit)
    keypoints = kept.keypoints.astype(np.float64)
    boxes = [box_of(person) for person in keypoints]
    return [
        {"keypoints": person.reshape(-1), "score": float(score), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for person, score, box in zip(keypoints, kept.scores, boxes, strict=True)
    ]


def _compact(evaluation: Any) -> Matches:
    params = evaluation.params
    areas, thresholds, images = len(params.areaRng), len(params.iouThrs), len(params.imgIds)
    per_area = [evaluation.evalImgs[area * images : (area + 1) * images] for area in range(areas)]
    # pycocotools leaves None where an image has neither annotations nor people, in every area range alike.
    counts = [0 if item is None else len(item["dtScores"]) for item in per_area[0]]
    total = sum(counts)
    matched, ignored = np.zeros((2, areas, thresholds, total), np.bool_)
    positives = np.zeros((areas, images), np.int64)
    for area, items in enumerate(per_area):
        present = [item for item in items if item is not None]
        if present:
            matched[area] = np.concatenate([item["dtMatches"] > 0 for item in present], axis=1)
            ignored[area] = np.concatenate([item["dtIgnore"] for item in present], axis=1)
        positives[area] = [0 if item is None else np.count_nonzero(item["gtIgnore"] == 0) for item in items]
    scores = np.array([score for item in per_area[0] if item is not None for score in item["dtScores"]], np.float64)
    order = np.argsort(-scores, kind="stable")
    return Matches(
        image_ids=np.asarray(params.imgIds, np.int64),
        image=np.repeat(np.arange(images), counts)[order],
        scores=scores[order],
        true=(matched & ~ignored)[:, :, order],
        false=(~matched & ~ignored)[:, :, order],
        positives=positives,
        stats=tuple(float(value) for value in evaluation.stats),
    )
