"""Poses for synthetic people: a built-in parametric prior, and real two-dimensional poses lifted to depth.

A body is described in units of its own standing height: x to the right of the image, y down, z towards the viewer,
the middle of the hips at the origin. Turned by yaw 0 a person faces the viewer, so that the left side of the body
is at positive x.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hhrnet_deploy.errors import InputError

Array = NDArray[np.float64]

SHOULDER_WIDTH, HIP_WIDTH, TORSO = 0.105, 0.062, 0.285
UPPER_ARM, FOREARM, THIGH, SHIN = 0.165, 0.150, 0.245, 0.240
NECK_TO_HEAD = 0.125
HEAD_RADII = np.array([0.060, 0.080, 0.070])
# Places on the head in units of its radii: nose, left eye, right eye, left ear, right ear (x left of the person).
FACE = np.array([[0.0, 0.14, 1.16], [0.42, -0.16, 0.88], [-0.42, -0.16, 0.88], [1.04, 0.02, 0.0], [-1.04, 0.02, 0.0]])


@dataclass(frozen=True)
class Body:
    """One posed body in units of its height.

    Attributes:
        joints: (17, 3) places of the COCO joints.
        torso: (3, 3) rotation of the trunk, columns are its left, down and forward directions.
        head: (3, 3) rotation of the head.
        head_centre: (3,) middle of the head.
    """

    joints: Array
    torso: Array
    head: Array
    head_centre: Array


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Array:
    """Rotation matrix, radians: about the vertical axis, then forward lean, then in the image plane."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(about_z @ about_x @ about_y)


def _direction(side: float, abduction: float, flexion: float) -> Array:
    """Unit vector of a limb hanging down, lifted sideways by ``abduction`` and forward by ``flexion`` (radians)."""
    down = np.cos(abduction)
    return np.array([side * np.sin(abduction), down * np.cos(flexion), down * np.sin(flexion)])


@dataclass(frozen=True)
class _Limbs:
    """Degrees per side (left, right): upper and lower segment, sideways and forward."""

    arms: Array  # (2, 4): upper abduction, upper flexion, lower abduction, lower flexion
    legs: Array  # (2, 4)
    lean: float


def _hanging_arms(rng: np.random.Generator) -> Array:
    arms = np.empty((2, 4))
    for arm in arms:
        bend = rng.uniform(0, 45) if rng.random() < 0.6 else rng.uniform(45, 130)
        arm[:] = rng.uniform(4, 24), rng.uniform(-18, 22), 0, 0
        arm[2:] = arm[0] + rng.uniform(-28, 4), arm[1] + bend
    return arms


def _raised_arms(rng: np.random.Generator) -> Array:
    arms = _hanging_arms(rng)
    for arm in arms[: rng.integers(1, 3)] if rng.random() < 0.5 else arms[::-1][: rng.integers(1, 3)]:
        up = rng.uniform(60, 165)
        arm[:] = up, rng.uniform(-10, 30), up + rng.uniform(-20, 70), rng.uniform(-10, 30)
    return arms


def _reaching_arms(rng: np.random.Generator) -> Array:
    arms = np.empty((2, 4))
    for arm in arms:
        flexion = rng.uniform(20, 110)
        arm[:] = rng.uniform(0, 35), flexion, rng.uniform(-30, 15), flexion + rng.uniform(0, 70)
    return arms


def _standing_legs(rng: np.random.Generator) -> Array:
    legs = np.empty((2, 4))
    for leg in legs:
        flexion = rng.uniform(-6, 10)
        spread = rng.uniform(1, 12)
        leg[:] = spread, flexion, spread - rng.uniform(-2, 5), flexion - rng.uniform(0, 14)
    return legs


def _striding_legs(rng: np.random.Generator, stride: float) -> Array:
    lead = rng.uniform(0.4, 1.0) * stride
    legs = np.array(
        [
            [rng.uniform(0, 7), lead, rng.uniform(0, 5), lead - rng.uniform(0, 25) - 0.5 * max(lead - 35, 0)],
            [rng.uniform(0, 7), -0.6 * lead, rng.uniform(0, 5), -0.6 * lead - rng.uniform(5, 30) - 0.6 * stride],
        ]
    )
    return legs[::-1] if rng.random() < 0.5 else legs


def _sitting_legs(rng: np.random.Generator) -> Array:
    legs = np.empty((2, 4))
    for leg in legs:
        flexion = rng.uniform(62, 98)
        leg[:] = rng.uniform(2, 24), flexion, rng.uniform(-6, 10), flexion - rng.uniform(55, 105)
    return legs


def _sample_limbs(rng: np.random.Generator) -> _Limbs:
    kind = rng.choice(6, p=[0.36, 0.18, 0.12, 0.17, 0.07, 0.10])
    lean = rng.normal(3, 5)
    arms_of = (_hanging_arms, _raised_arms, _reaching_arms)
    arms = arms_of[rng.choice(3, p=[0.58, 0.19, 0.23])](rng)
    if kind == 0:
        return _Limbs(arms, _standing_legs(rng), lean)
    if kind == 1:
        return _Limbs(arms, _striding_legs(rng, 32), lean)
    if kind == 2:
        legs = _striding_legs(rng, 65)
        if rng.random() < 0.6:
            swing = np.where(legs[:, 1] > 0, -35.0, 40.0) + rng.uniform(-15, 15, 2)
            bend = rng.uniform(50, 105, 2)
            arms = np.stack([rng.uniform(5, 25, 2), swing, rng.uniform(-15, 10, 2), swing + bend], axis=1)
        return _Limbs(arms, legs, rng.uniform(2, 25))
    if kind == 3:
        return _Limbs(arms, _sitting_legs(rng), rng.normal(2, 9))
    if kind == 4:  # crouching
        flexion = rng.uniform(70, 115, 2)
        legs = np.stack([rng.uniform(5, 30, 2), flexion, rng.uniform(-5, 15, 2), flexion - rng.uniform(95, 135, 2)], 1)
        return _Limbs(arms, legs, rng.uniform(10, 45))
    legs = np.stack([rng.uniform(5, 38, 2), rng.uniform(-15, 50, 2), rng.uniform(0, 30, 2), np.zeros(2)], axis=1)
    legs[:, 3] = legs[:, 1] - rng.uniform(0, 60, 2)
    return _Limbs(arms, legs, rng.uniform(-5, 40))


def sample_yaw(rng: np.random.Generator) -> float:
    """A facing direction in radians: mostly towards the viewer, some from behind, the rest from any side."""
    draw = rng.random()
    if draw < 0.56:
        return float(np.deg2rad(rng.normal(0, 32)))
    if draw < 0.74:
        return float(np.deg2rad(rng.normal(180, 28)))
    return float(rng.uniform(-np.pi, np.pi))


def sample_body(rng: np.random.Generator, yaw: float | None = None) -> Body:
    """A body of the built-in prior: standing, walking, running, sitting, crouching or in sport, arms at will."""
    limbs = _sample_limbs(rng)
    yaw = sample_yaw(rng) if yaw is None else yaw
    roll = np.deg2rad(rng.normal(0, 5) if rng.random() < 0.93 else rng.uniform(-80, 80))
    view = rotation(yaw, np.deg2rad(rng.normal(4, 6)), float(roll))
    lean = rotation(0.0, np.deg2rad(limbs.lean), np.deg2rad(rng.normal(0, 4)))
    torso = view @ lean
    joints = np.zeros((17, 3))
    shrug = rng.uniform(-0.012, 0.012, 2)
    for index, side in enumerate((1.0, -1.0)):
        joints[11 + index] = view @ np.array([side * HIP_WIDTH, 0.0, 0.0])
        joints[5 + index] = torso @ np.array([side * SHOULDER_WIDTH, -TORSO + shrug[index], 0.0])
        arm, leg = np.deg2rad(limbs.arms[index]), np.deg2rad(limbs.legs[index])
        joints[7 + index] = joints[5 + index] + torso @ _direction(side, arm[0], arm[1]) * UPPER_ARM
        joints[9 + index] = joints[7 + index] + torso @ _direction(side, arm[2], arm[3]) * FOREARM
        joints[13 + index] = joints[11 + index] + view @ _direction(side, leg[0], leg[1]) * THIGH
        joints[15 + index] = joints[13 + index] + view @ _direction(side, leg[2], leg[3]) * SHIN
    turn = np.deg2rad(np.clip(rng.normal(0, 24), -60, 60))
    head = torso @ rotation(float(turn), np.deg2rad(rng.normal(-4, 10)), np.deg2rad(rng.normal(0, 6)))
    return _with_head(joints, torso, head)


def _with_head(joints: Array, torso: Array, head: Array) -> Body:
    neck = (joints[5] + joints[6]) / 2
    up = 0.55 * torso[:, 1] + 0.45 * head[:, 1]
    centre = neck - up / np.linalg.norm(up) * NECK_TO_HEAD + head[:, 2] * 0.012
    joints[:5] = centre + (FACE * HEAD_RADII) @ head.T
    return Body(joints, torso, head, centre)


# Bones as parent, child, length in heights; the order builds each limb outwards.
_BONES = (
    *((5, 7, UPPER_ARM), (7, 9, FOREARM), (6, 8, UPPER_ARM), (8, 10, FOREARM)),
    *((11, 13, THIGH), (13, 15, SHIN), (12, 14, THIGH), (14, 16, SHIN)),
)
_LENGTHS = (*_BONES, (5, 11, TORSO), (6, 12, TORSO))


def usable(pose: Array) -> bool:
    """Whether a real pose (17, 3: x, y, v) shows both shoulders, both hips and at least nine joints."""
    known = pose[:, 2] > 0
    return bool(known[[5, 6, 11, 12]].all() and known.sum() >= 9 and _height(pose) > 20)


def _height(pose: Array) -> float:
    """Standing height in pixels: the bone that is foreshortened least decides, with some slack."""
    known = pose[:, 2] > 0
    ratios = [
        float(np.linalg.norm(pose[a, :2] - pose[b, :2])) / length for a, b, length in _LENGTHS if known[a] and known[b]
    ]
    ratios.sort()
    return ratios[-2] if len(ratios) > 2 else max(ratios, default=0.0)


def _yaw_of(pose: Array, height: float) -> float:
    """Facing direction from the signed width of shoulders and hips and from what of the face is seen."""
    width = pose[5, 0] - pose[6, 0] + pose[11, 0] - pose[12, 0]
    cosine = np.clip(width / (2 * (SHOULDER_WIDTH + HIP_WIDTH) * height), -1, 1)
    angle = float(np.arccos(cosine))
    face = pose[:5][pose[:5, 2] > 0]
    middle = (pose[5, 0] + pose[6, 0]) / 2
    return -angle if len(face) and face[:, 0].mean() < middle else angle


def _head_yaw(pose: Array, height: float, yaw: float) -> float:
    known = pose[:5, 2] > 0
    if not known[:3].any():
        return yaw if np.cos(yaw) < 0 else float(np.pi - yaw)
    ears = pose[3:5][known[3:5]]
    if len(ears) == 0:
        return float(np.clip(np.arctan2(np.sin(yaw), np.cos(yaw)), -0.6, 0.6))
    offset = (pose[:3][known[:3]][:, 0].mean() - ears[:, 0].mean()) / (HEAD_RADII[2] * height)
    if len(ears) == 2:
        return float(np.arcsin(np.clip(offset, -0.9, 0.9)))
    return float(np.sign(offset) * np.clip(0.35 + 0.5 * abs(offset), 0.5, 1.35))


def lift(rng: np.random.Generator, pose: Array) -> Body:
    """Give a real pose depth and the joints it lacks.

    Depth of a bone follows from its foreshortening; its sign from the direction the person faces and from whether the
    joint was marked as hidden. Missing joints take the bones of a body drawn from the built-in prior with the same yaw.
    """
    height = _height(pose) * float(rng.uniform(0.98, 1.06))
    yaw = _yaw_of(pose, height)
    prior = sample_body(rng, yaw)
    known = pose[:, 2] > 0
    origin = (pose[11, :2] + pose[12, :2]) / 2
    joints = np.zeros((17, 3))
    joints[:, :2] = (pose[:, :2] - origin) / height
    forward = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    for left, right, width in ((5, 6, SHOULDER_WIDTH), (11, 12, HIP_WIDTH)):
        joints[left, 2], joints[right, 2] = -np.sin(yaw) * width, np.sin(yaw) * width
    for parent, child, length in _BONES:
        if not known[child] or not known[parent]:
            joints[child] = joints[parent] + prior.joints[child] - prior.joints[parent]
            known[child] = True
            continue
        step = joints[child, :2] - joints[parent, :2]
        depth = float(np.sqrt(max(length**2 - float(step @ step), 0.0))) * 0.8
        sign = np.sign(forward[2]) if child in {7, 8, 9, 10, 13, 14} else -np.sign(forward[2])
        joints[child, 2] = joints[parent, 2] + (sign * depth if pose[child, 2] == 2 else -depth)
    torso = _torso_frame(joints, yaw)
    roll = float(np.arctan2(-torso[0, 1], torso[1, 1]))
    head = rotation(_head_yaw(pose, height, yaw) + float(rng.normal(0, 0.1)), float(rng.normal(0, 0.12)), 0.6 * roll)
    return _with_head(joints, torso, head)


def _torso_frame(joints: Array, yaw: float) -> Array:
    down = (joints[11] + joints[12] - joints[5] - joints[6]) / 2
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    left = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    left = left - down * float(left @ down)
    left = left / max(float(np.linalg.norm(left)), 1e-6)
    return np.stack([left, down, np.cross(left, down)], axis=1)


def jitter(rng: np.random.Generator, pose: Array) -> Array:
    """A real pose mirrored at random, turned by a few degrees and with each joint moved by a little."""
    pose = pose.copy()
    if rng.random() < 0.5:
        pose[:, 0] = -pose[:, 0]
        pose = pose[[0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]]
    angle = rng.normal(0, 0.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose[:, :2] = pose[:, :2] @ turn.T + rng.normal(0, 0.006 * _height(pose), (17, 2))
    return pose


def read_poses(path: str | Path) -> list[Array]:
    """Usable poses, (17, 3) each, of a pose file: ``{"images": [{"width", "height", "people": [[[x, y, v], ...]]}]}``.

    Raises:
        InputError: the file cannot be read, has another form, or holds no usable pose.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        people = [
            np.asarray(person, float).reshape(17, 3) for image in document["images"] for person in image["people"]
        ]
    except OSError as error:
        raise InputError(f"Pose file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Pose file {path} has not the expected form: {error}.",
            hint='Expected {"images": [{"width": W, "height": H, "people": [[[x, y, v] * 17], ...]}, ...]}.',
        ) from error
    poses = [person for person in people if np.isfinite(person).all() and usable(person)]
    if not poses:
        raise InputError(
            f"Pose file {path} holds no usable pose among {len(people)}.",
            hint="A pose needs both shoulders, both hips and at least nine joints with v > 0.",
        )
    return poses
