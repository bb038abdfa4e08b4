"""One synthetic scene: who stands where, the picture, and its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.data.synth_background import background, camera, clutter, foreground
from hhrnet_deploy.data.synth_canvas import Canvas
from hhrnet_deploy.data.synth_figure import PARTS, SHOWN_BY, Placed, draw_figure, face_seen
from hhrnet_deploy.data.synth_look import sample_look
from hhrnet_deploy.data.synth_poses import Body, jitter, lift, sample_body

Array = NDArray[np.float64]

_SIZES = ((640, 480), (640, 427), (480, 640), (427, 640), (500, 375), (640, 425), (612, 612), (640, 360), (375, 500))
_SIZE_SHARES = (0.33, 0.22, 0.11, 0.08, 0.08, 0.07, 0.04, 0.04, 0.03)
_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
_COUNT_SHARES = (0.44, 0.19, 0.10, 0.065, 0.05, 0.03, 0.025, 0.025, 0.02, 0.015, 0.01, 0.01, 0.01, 0.004, 0.003, 0.003)
# COCO annotates keypoints of people of at least this area only; smaller ones are ignored in its evaluation.
SMALLEST_AREA = 32.0**2
FEWEST_JOINTS = 4
# Joints next to each other on the body: a hidden joint is labelled when one of these is seen.
NEIGHBOURS: tuple[tuple[int, ...], ...] = (
    *((1, 2), (0, 2), (0, 1), (1, 0), (2, 0)),
    *((6, 7, 11), (5, 8, 12), (5, 9), (6, 10), (7,), (8,)),
    *((12, 5, 13), (11, 6, 14), (11, 15), (12, 16), (13,), (14,)),
)


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 RGB and its COCO annotations without ids."""

    image: NDArray[np.uint8]
    annotations: list[dict[str, Any]]


def _bounds(body: Body) -> tuple[Array, Array]:
    points = np.concatenate([body.joints[:, :2], body.head_centre[None, :2] - (0, 0.09)])
    return points.min(axis=0) - 0.045, points.max(axis=0) + 0.045


def _sizes(rng: np.random.Generator, count: int, width: int, height: int) -> list[float]:
    """Square roots of the areas of the people, pixels, farthest first; medians by count as in COCO."""
    median = (142.0, 112.0, 90.0, 90.0, 90.0)[min(count, 5) - 1] if count < 6 else 70.0
    base = median * np.exp(rng.normal(0, 0.55))
    sizes = base * np.exp(rng.normal(0, 0.42, count))
    sizes = np.clip(sizes, 26, 0.8 * min(width, height))
    small = sizes < 37
    sizes[small] = np.where(rng.random(int(small.sum())) < 0.8, rng.uniform(37, 50, int(small.sum())), sizes[small])
    return sorted(np.round(sizes, 3).tolist())


def _place(rng: np.random.Generator, body: Body, size: float, frame: tuple[int, int], taken: list[Array]) -> Placed:
    """Find room for a body: inside or cut by the border, beside or partly behind others."""
    width, height = frame
    low, high = _bounds(body)
    box = high - low
    # A figure fills about 0.33 of its box when it stands and 0.42 when it sits: box area to silhouette.
    unit = size / float(np.sqrt(0.36 * box[0] * box[1]))
    close_up = rng.random() < 0.3 and size > 70
    unit = min(unit * (rng.uniform(1.2, 1.9) if close_up else 1.0), 2.2 * height)
    extent = box * unit
    best: tuple[float, Array] | None = None
    for _ in range(6):
        corner = np.empty(2)
        for axis, room in ((0, width), (1, height)):
            slack = room - extent[axis]
            if axis == 1 and close_up:
                corner[axis] = rng.uniform(-0.05 * extent[1], 0.35 * room)
            elif slack > 0 and rng.random() < 0.82:
                corner[axis] = rng.uniform(0, slack)
            elif axis == 1 and slack <= 0.15 * room:
                corner[axis] = rng.uniform(-0.06 * extent[1], 0.3 * room)
            else:
                corner[axis] = rng.uniform(min(-0.3 * extent[axis], slack), max(0.0, slack + 0.3 * extent[axis]))
        overlap = _overlap(np.concatenate([corner, corner + extent]), taken) + rng.uniform(0, 0.12)
        if best is None or overlap < best[0]:
            best = overlap, corner
    assert best is not None
    corner = np.round(best[1], 2)
    taken.append(np.concatenate([corner, corner + extent]))
    origin = np.round(corner - low * unit, 2)
    return Placed(body, sample_look(rng), (float(origin[0]), float(origin[1])), round(unit, 3))


def _overlap(box: Array, taken: list[Array]) -> float:
    """Largest share of the smaller box that is common with a taken one."""
    most = 0.0
    for other in taken:
        common = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if (common > 0).all():
            smaller = min(float(np.prod(b[2:] - b[:2])) for b in (box, other))
            most = max(most, float(np.prod(common)) / smaller)
    return most


def _sample_body(rng: np.random.Generator, poses: list[Array] | None) -> Body:
    if poses is None or rng.random() < 0.15:
        return sample_body(rng)
    return lift(rng, jitter(rng, poses[rng.integers(len(poses))]))


def draw_scene(rng: np.random.Generator, poses: list[Array] | None) -> Scene:
    """Draw one scene.

    Args:
        rng: the only source of chance.
        poses: real poses (17, 3) to take bodies from; None uses the built-in prior.
    """
    width, height = _SIZES[rng.choice(len(_SIZES), p=_SIZE_SHARES)]
    canvas = Canvas(background(rng, width, height))
    clutter(rng, canvas, int(rng.integers(0, 22)))
    light = float(np.round(rng.uniform(-0.2, 0.2), 3))
    count = int(rng.choice(_COUNTS, p=_COUNT_SHARES))
    people: list[Placed] = []
    taken: list[Array] = []
    for size in _sizes(rng, count, width, height):
        placed = _place(rng, _sample_body(rng, poses), size, (width, height), taken)
        people.append(placed)
        draw_figure(canvas, placed, len(people), light)
        if rng.random() < 0.14:
            low, high = taken[-1][:2], taken[-1][2:]
            foreground(rng, canvas, rng.uniform(low, high), float(placed.height * rng.uniform(0.06, 0.3)))
    annotations = [
        note for index, placed in enumerate(people, 1) if (note := label_person(canvas, placed, index)) is not None
    ]
    return Scene(camera(rng, canvas.image), annotations)


def label_person(canvas: Canvas, placed: Placed, person: int) -> dict[str, Any] | None:
    """COCO annotation of one person, None where next to nothing of them is seen."""
    mask = canvas.parts // PARTS == person
    area = int(mask.sum())
    polygons = outlines(mask)
    if area < 60 or not polygons:
        return None
    keypoints = _visible_keypoints(canvas, placed, person)
    labelled = int((keypoints[:, 2] > 0).sum())
    if area < SMALLEST_AREA or labelled < FEWEST_JOINTS:
        keypoints[:], labelled = 0, 0
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return {
        "category_id": 1,
        "iscrowd": 0,
        "area": float(area),
        "bbox": [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)],
        "segmentation": polygons,
        "num_keypoints": labelled,
        "keypoints": [
            round(float(value), 2) if column < 2 else int(value)
            for row in keypoints
            for column, value in enumerate(row)
        ],
    }


def _visible_keypoints(canvas: Canvas, placed: Placed, person: int) -> Array:
    """(17, 3) x, y, v.

    v = 2: a part that shows the joint is on top within one pixel of it. v = 1: covered, by the own body or by something
    else, while a neighbouring joint is seen. v = 0 (and x = y = 0): outside the image, on the far side of the head, or
    covered with no neighbour seen.
    """
    height, width = canvas.parts.shape
    places = placed.keypoints
    facing = np.concatenate([face_seen(placed), np.ones(12, bool)])
    seen, inside = np.zeros(17, bool), np.zeros(17, bool)
    shown = [{person * PARTS + part for part in parts} for parts in SHOWN_BY]
    for joint, (x, y) in enumerate(places):
        column, row = int(np.floor(x)), int(np.floor(y))
        inside[joint] = 0 <= column < width and 0 <= row < height
        if inside[joint] and facing[joint]:
            near = canvas.parts[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            seen[joint] = not shown[joint].isdisjoint(near.reshape(-1).tolist())
    keypoints = np.zeros((17, 3))
    for joint in range(17):
        hinted = inside[joint] and facing[joint] and bool(seen[list(NEIGHBOURS[joint])].any())
        visibility = 2 if seen[joint] else 1 if hinted else 0
        if visibility:
            keypoints[joint] = *places[joint], visibility
    return keypoints


def outlines(mask: NDArray[np.bool_]) -> list[list[float]]:
    """COCO polygons around a mask."""
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[float(value) for value in contour.reshape(-1)] for contour in contours if len(contour) >= 3]
