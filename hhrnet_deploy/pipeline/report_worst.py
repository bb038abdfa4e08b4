"""The photos in which engine and reference differ most, side by side with the annotations."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.data.coco import KeypointDataset, Sample
from hhrnet_deploy.evaluate.partial import ImageRecord
from hhrnet_deploy.people import Float32, People
from hhrnet_deploy.pipeline.report_html import Html, element, joined, picture
from hhrnet_deploy.skeletons import Skeleton

Image = npt.NDArray[np.uint8]

_WIDTH = 420  # px of a picture in the report
_DRAWN_SCORE = 0.1
_DRAWN_PEOPLE = 30
_LEAST_AREA = 32.0**2


@dataclass(frozen=True)
class Worst:
    """A photo and how much its people differ."""

    number: int
    difference: float
    record: ImageRecord


def difference(reference: People, subject: People, skeleton: Skeleton) -> float:
    """How much of whom only one of two models found: 0 for the same people.

    People are paired by object keypoint similarity, the most similar first. A pair counts its higher score times
    (1 - similarity), a person without a partner counts with the whole score.
    """
    left, right = _finite_scores(reference), _finite_scores(subject)
    total = float(left.sum() + right.sum())
    similarity = _similarities(reference, subject, skeleton)
    while similarity.size and similarity.max() > 0:
        row, column = np.unravel_index(int(similarity.argmax()), similarity.shape)
        kept = similarity[row, column]
        total -= float(left[row] + right[column]) - float(max(left[row], right[column]) * (1 - kept))
        similarity[row, :] = similarity[:, column] = -1.0
    return max(total, 0.0)


def _finite_scores(people: People) -> npt.NDArray[np.float64]:
    return np.nan_to_num(people.scores.astype(np.float64), nan=1.0, posinf=1.0, neginf=0.0)


def _similarities(reference: People, subject: People, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """(P, Q) mean over the reference's found joints of exp(-d^2 / 2 s^2), as COCO's OKS; 0 where a joint is missing."""
    result = np.zeros((len(reference), len(subject)))
    variances = (2 * np.asarray(skeleton.sigmas, np.float64)) ** 2
    others = np.nan_to_num(subject.keypoints.astype(np.float64), nan=1e6, posinf=1e6, neginf=-1e6)
    for row, person in enumerate(np.nan_to_num(reference.keypoints.astype(np.float64))):
        found = person[:, 2] > 0
        if not found.any() or not len(others):
            continue
        width, height = np.ptp(person[found, :2], axis=0)
        area = max(float(width * height), _LEAST_AREA)
        squared = ((others[:, found, :2] - person[found, :2]) ** 2).sum(axis=2)
        near = np.exp(-squared / (2 * area * variances[found])) * (others[:, found, 2] > 0)
        result[row] = near.mean(axis=1)
    return result


def find_worst(records: Iterable[ImageRecord], count: int, skeleton: Skeleton) -> list[Worst]:
    """The ``count`` images that differ most, the worst first; memory for these only."""
    ranked = (
        Worst(number, difference(record.reference, record.subject, skeleton), record)
        for number, record in enumerate(records)
        if record.reference is not None
    )
    return heapq.nlargest(count, ranked, key=lambda worst: (worst.difference, -worst.number))


def worst_pictures(worst: list[Worst], data: KeypointDataset) -> Html:
    """One row per photo: reference, engine, ground truth."""
    return joined([_row(item, data) for item in worst])


def _row(item: Worst, data: KeypointDataset) -> Html:
    from hhrnet_deploy.data.images import read_image

    sample, record = data[item.number], item.record
    photo, scale = _small(read_image(sample.path))
    reference = record.reference or People.none(record.subject.num_joints)
    panels = [
        ("reference", reference, "the PyTorch reference"),
        ("engine", record.subject, "the engine"),
        ("ground truth", annotated_people(data, sample), "the annotations"),
    ]
    figures = [
        element(
            "figure",
            picture(_drawn(photo, people, scale, data.skeleton), f"{sample.path.name} with the people of {origin}"),
            element("figcaption", f"{title}: {_count(people)}"),
        )
        for title, people, origin in panels
    ]
    caption = element("h3", f"{sample.path.name} (id {sample.image_id}), difference {item.difference:.3f}")
    return element("article", caption, element("div", *figures, class_="trio"))


def annotated_people(data: KeypointDataset, sample: Sample) -> People:
    """The annotations as people with score 1 and all labelled joints."""
    joints = data.joints(sample)
    keypoints = np.concatenate([joints[:, :, :2], joints[:, :, 2:] > 0], axis=2).astype(np.float32)
    count = len(keypoints)
    return People(keypoints, np.ones(count, np.float32), np.zeros((*keypoints.shape[:2], 1), np.float32))


def _count(people: People) -> str:
    shown = int(np.count_nonzero(people.scores >= _DRAWN_SCORE))
    text = f"{shown} {'person' if shown == 1 else 'people'}"
    return text if shown <= _DRAWN_PEOPLE else f"{text}, {_DRAWN_PEOPLE} drawn"


def _small(photo: Image) -> tuple[Image, float]:
    """The photo at the report's width, never enlarged, and its scale."""
    import cv2

    height, width = photo.shape[:2]
    scale = min(1.0, _WIDTH / width, 1.5 * _WIDTH / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _drawn(photo: Image, people: People, scale: float, skeleton: Skeleton) -> Image:
    from hhrnet_deploy.visualize.draw import draw_people

    shown = people.select(people.scores >= _DRAWN_SCORE).highest(_DRAWN_PEOPLE)
    scaled: Float32 = shown.keypoints * np.array([scale, scale, 1], np.float32)
    return draw_people(photo, shown.with_keypoints(scaled), skeleton, scores=False)
