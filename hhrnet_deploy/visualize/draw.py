"""People drawn into photos: limbs coloured by side, widths by the size of the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.people import People
from hhrnet_deploy.skeletons import Skeleton

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
Points = npt.NDArray[np.float64]

# RGB; told apart with red-green blindness too.
LEFT: Color = (255, 140, 26)
RIGHT: Color = (38, 169, 255)
CENTRE: Color = (240, 240, 240)
_OUTLINE: Color = (24, 24, 24)
_SHIFT = 4  # cv2 takes coordinates in 1/16 px
_FARTHEST = 1e5  # px; joints beyond are not drawn


@dataclass(frozen=True)
class Pen:
    """Widths in pixels for one person."""

    limb: int
    joint: int
    text: float

    @classmethod
    def for_size(cls, size: float) -> Pen:
        """Widths for a person of ``size`` pixels (the root of the box's area)."""
        limb = int(np.clip(round(size / 55), 1, 14))
        return cls(limb=limb, joint=limb + 1, text=float(np.clip(size / 400, 0.35, 1.2)))


def draw_people(
    image: Image,
    people: People,
    skeleton: Skeleton,
    *,
    boxes: bool = False,
    scores: bool = True,
    joint_threshold: float = 0.1,
) -> Image:
    """A copy of the photo with people drawn in, the highest score on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        people: keypoints in pixels of the photo.
        skeleton: which joints are joined, and which are left and right.
        boxes: draw the box around each person's drawn joints.
        scores: write each person's score beside the head.
        joint_threshold: joints with a lower score, or a score of 0, are not drawn; refinement fills in faint ones.

    Raises:
        InputError: the image is not (H, W, 3) uint8 or the people have another number of joints.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"Expected a photo (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}.")
    if people.num_joints != skeleton.num_joints:
        raise InputError(
            f"The people have {people.num_joints} joints, the skeleton {skeleton.name} has {skeleton.num_joints}."
        )
    canvas = np.ascontiguousarray(image).copy()
    for index in np.argsort(people.scores, kind="stable"):
        keypoints = people.keypoints[index].astype(np.float64)
        drawn = _drawn(keypoints, joint_threshold)
        if drawn.any():
            _draw_person(canvas, keypoints, drawn, skeleton)
            box = _box(keypoints[drawn])
            if boxes:
                _draw_box(canvas, box)
            if scores:
                _draw_score(canvas, box, float(people.scores[index]))
    return canvas


def joint_colors(skeleton: Skeleton) -> list[Color]:
    """K colours: by the joint's name, else by its place in a flip pair (left first), else the centre's."""
    colors = [CENTRE] * skeleton.num_joints
    for left, right in skeleton.flip_pairs:
        colors[left], colors[right] = LEFT, RIGHT
    for joint, name in enumerate(skeleton.joints):
        if name.lower().startswith("left"):
            colors[joint] = LEFT
        elif name.lower().startswith("right"):
            colors[joint] = RIGHT
    return colors


def _drawn(keypoints: Points, threshold: float) -> npt.NDArray[np.bool_]:
    near = np.all(np.abs(keypoints[:, :2]) < _FARTHEST, axis=1)  # False for NaN
    shown: npt.NDArray[np.bool_] = near & (keypoints[:, 2] > 0) & (keypoints[:, 2] >= threshold)
    return shown


def _box(points: Points) -> tuple[Points, Points]:
    return points[:, :2].min(axis=0), points[:, :2].max(axis=0)


def _size(box: tuple[Points, Points]) -> float:
    """The root of the box's area; half the longer side for thin boxes."""
    width, height = (box[1] - box[0]).tolist()
    return float(max((width * height) ** 0.5, max(width, height) / 2))


def _draw_person(canvas: Image, keypoints: Points, drawn: npt.NDArray[np.bool_], skeleton: Skeleton) -> None:
    pen = Pen.for_size(_size(_box(keypoints[drawn])))
    colors = joint_colors(skeleton)
    limbs = [(a, b) for a, b in skeleton.limbs if drawn[a] and drawn[b]]
    joints = np.flatnonzero(drawn).tolist()
    # Outlines first, so that no limb is cut by its neighbour's.
    for a, b in limbs:
        _line(canvas, keypoints[a], keypoints[b], _OUTLINE, pen.limb + 2)
    for joint in joints:
        _dot(canvas, keypoints[joint], _OUTLINE, pen.joint + 1)
    for a, b in limbs:
        _line(canvas, keypoints[a], keypoints[b], colors[a] if colors[a] == colors[b] else CENTRE, pen.limb)
    for joint in joints:
        _dot(canvas, keypoints[joint], colors[joint], pen.joint)


def _line(canvas: Image, start: Points, end: Points, color: Color, width: int) -> None:
    import cv2

    cv2.line(canvas, _fixed(start), _fixed(end), color, width, cv2.LINE_AA, _SHIFT)


def _dot(canvas: Image, centre: Points, color: Color, radius: int) -> None:
    import cv2

    cv2.circle(canvas, _fixed(centre), radius << _SHIFT, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed(point: Points) -> tuple[int, int]:
    return round(float(point[0]) * (1 << _SHIFT)), round(float(point[1]) * (1 << _SHIFT))


def _draw_box(canvas: Image, box: tuple[Points, Points]) -> None:
    import cv2

    for color, width in ((_OUTLINE, 3), (CENTRE, 1)):
        cv2.rectangle(canvas, _fixed(box[0]), _fixed(box[1]), color, width, cv2.LINE_AA, _SHIFT)


def _draw_score(canvas: Image, box: tuple[Points, Points], score: float) -> None:
    """The score in percent above the person, moved inside where it would leave the photo."""
    import cv2

    if not np.isfinite(score):
        return
    low, high = box
    size = Pen.for_size(_size(box)).text
    text = f"{score * 100:.0f}%"
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = int(np.clip((low[0] + high[0] - width) / 2, 1, max(1, canvas.shape[1] - width - 2)))
    baseline = int(np.clip(low[1] - 6, height + 2, max(height + 2, canvas.shape[0] - 3)))
    for color, thickness in ((_OUTLINE, 3), (CENTRE, 1)):
        cv2.putText(canvas, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
